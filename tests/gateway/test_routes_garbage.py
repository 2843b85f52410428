"""Every parameter of every route but infer, with arbitrary values: the answer names the fault and is never a 500."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, MutableMapping
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from gateway.durable.requests import Requests
from gateway.handle import Handle, sign
from gateway.rest.access import Access
from gateway.rest.routes import Routes
from protocol.codec import encode_reply
from protocol.messages import InferReply
from protocol.naming import ref
from protocol.ports import Claim, Terminal
from tests.gateway.fleet import Site, site

Sent = list[MutableMapping[str, Any]]
ID = "topic.with.dots-0-17-1"
NO_FAULTS = {200, 202, 400, 401, 404, 405, 410, 413, 429, 499, 501, 503}
"""501 is for features that are not supported, 503 for a server that is shutting down; 500 would be our fault."""


class App:
    """The application on a gateway in memory, called without sockets."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._stack = contextlib.AsyncExitStack()
        self.loop.run_until_complete(self._start())

    async def _start(self) -> None:
        fleet: Site = await self._stack.enter_async_context(site())
        await fleet.worker()
        gateway = (await fleet.gateway()).gateway
        self.handle = sign(Handle("penstock.infer.add_sub.1", 0, 10**9, "ab", "-", "f"), gateway.service.keys._keys[0])
        store = (await fleet.transport()).results
        await store.claim(Claim(ref("-", ID), "f", "", 10.0, 600.0, "add_sub", "1", 1.0))
        await store.claim(Claim("waiting", "f", "", 10.0, 600.0, "add_sub", "1", 1.0))
        await store.finish([Terminal(ref("-", ID), encode_reply(InferReply("add_sub", "1")))])
        requests, pool = Requests(gateway.service, gateway._claims), gateway._http._frontend.json
        self._app = Routes(gateway.service, gateway._repository, requests, Access(""), pool, "0").app

    def close(self) -> None:
        self.loop.run_until_complete(self._stack.aclose())
        self.loop.close()

    def call(self, method: str, path: str, query: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> Sent:
        """What the application sends; raises what it raises."""
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http", "path": path,
            "raw_path": path.encode(), "query_string": query, "root_path": "", "headers": headers, "server": ("127.0.0.1", 8000),
            "client": ("127.0.0.1", 1), "state": {},
        }  # fmt: skip
        sent: Sent = []
        chunks = iter([{"type": "http.request", "body": body, "more_body": False}])
        forever: asyncio.Future[MutableMapping[str, Any]] = self.loop.create_future()

        async def receive() -> MutableMapping[str, Any]:
            return next(chunks, None) or await forever

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        self.loop.run_until_complete(asyncio.wait_for(self._app(scope, receive, send), 20))
        return sent


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    made = App()
    yield made
    made.close()


anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
longest = st.builds(
    lambda piece, count: piece * count, st.sampled_from(["9", "a", "é", ".", "%", "\x00"]), st.integers(1, 6000)
)
versions = (
    st.sampled_from(["1", "01", "2", "-1", "9" * 19, "9" * 20, "9" * 5000, "1.5", "٣", "", "one"]) | anything | longest
)
models = st.sampled_from(["add_sub", "no", "..", "stats"]) | anything | longest
tokens = st.sampled_from(["ab", "HANDLE", ID, "waiting", "x." + "y" * 22, "a/b", "a" * 257]) | anything | longest
templates = st.sampled_from(
    [
        "/v2", "/v2/{}", "/v2/health/{}", "/v2/models/{model}", "/v2/models/{model}/{word}",
        "/v2/models/{model}/versions/{version}",
        "/v2/models/{model}/versions/{version}/{word}", "/v2/models/stats", "/v2/repository/index", "/v2/repository/{}/index",
        "/v2/repository/models/{model}/{word}", "/v2/requests/{token}", "/v2/requests/", "/v2/systemsharedmemory/{}",
        "/v2/cudasharedmemory/region/{}/register", "/v2/trace/setting", "/v2/logging",
        "/v2/models/{model}/trace/setting", "/{}", "{}",
    ]
)  # fmt: skip
words = st.sampled_from(["ready", "config", "stats", "infer", "load", "unload", "trace", "generate"]) | anything
numbers = st.sampled_from(["0", "0.01", "-1", "nan", "inf", "1e999", "9" * 5000, "٣", "", "0x1", "1,2"]) | anything
queries = st.dictionaries(st.sampled_from(["wait_s", "wait_s%00", "x"]) | anything, numbers, max_size=3).map(
    lambda fields: "&".join(f"{name}={value}" for name, value in fields.items()).encode()
)
values = st.binary(max_size=30) | st.sampled_from(
    [b"wait=0.01", b"wait=nan", b"wait=" + b"9" * 400, b"respond-async", b"\xff"]
)
names = st.sampled_from(
    [b"prefer", b"accept", b"content-type", b"authorization", b"x-api-key", b"content-length", b"traceparent"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | anything,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["ready", "repository_name", "parameters"]) | anything, inner, max_size=3)
    ),
    max_leaves=8,
)
bodies = (
    st.just(b"")
    | st.binary(max_size=40)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.sampled_from([b"[" * 5000, b'{"ready":' * 2000, b" " * 70_000, b'{"ready":1e999}', b"\xef\xbb\xbf{}"])
)


@settings(
    max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.data())
def test_no_parameter_of_any_route_is_a_fault_of_ours(app: App, data: st.DataObject) -> None:
    template = data.draw(templates)
    path = template.replace("{}", data.draw(anything)) if "{}" in template else template
    for name, strategy in (("model", models), ("version", versions), ("token", tokens), ("word", words)):
        if f"{{{name}}}" in path:
            path = path.replace(f"{{{name}}}", data.draw(strategy).replace("HANDLE", app.handle))
    method = data.draw(st.sampled_from(["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "PATCH"]))
    headers = data.draw(st.lists(st.tuples(names, values), max_size=3))

    start, *rest = app.call(method, path, data.draw(queries), headers, data.draw(bodies))

    status, body = start["status"], b"".join(message.get("body", b"") for message in rest)
    event(f"{method} {template} {status}")
    assert status in NO_FAULTS, (status, body[:200])
    assert len(body) < 100_000
    for name, value in start["headers"]:
        assert b"\r" not in name + value
        assert b"\n" not in name + value
    if status >= 400 and method != "HEAD" and body:
        assert orjson.loads(body)["error"] is not None


@pytest.mark.parametrize("token", ["waiting", ID, "x." + "y" * 22])
@pytest.mark.parametrize("wait", ["nan", "-1", "1e6", "one", "1e999", "inf", "\x00"])
def test_a_wait_that_is_no_number_of_seconds_is_400(app: App, token: str, wait: str) -> None:
    start, body = app.call("GET", f"/v2/requests/{token}", f"wait_s={wait}".encode(), [], b"")

    assert start["status"] == 400
    assert orjson.loads(body["body"])["error"].startswith("wait must be a number of seconds, not ")
