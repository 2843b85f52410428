"""Which pages of other origins may call, read answers, and change what is served; what browsers are told."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rest.framing import Hosts
from gateway.rest.origins import EXPOSED, Origins
from gateway.settings import GatewaySettings
from protocol.errors import ConfigError
from protocol.urls import origin_of
from tests.gateway.fleet import ADD_SUB, Running, Site, add_sub

APP = "https://app.example"
INFER = "/v2/models/add_sub/infer"
LOAD = "/v2/repository/models/add_sub/load"
ASKS = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


async def called(gateway: Running, method: str, path: str, origin: str, **headers: str) -> httpx.Response:
    body = add_sub() if method == "POST" and path.endswith("/infer") else None
    sent = {"origin": origin, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return await gateway.client.request(method, gateway.url + path, headers=sent, json=body)


def told(answer: httpx.Response) -> dict[str, str]:
    """What an answer says to browsers about other origins."""
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://app.example", "https://app.example"), ("HTTPS://App.Example:443/", "https://app.example"),
        ("http://localhost:3000", "http://localhost:3000"), ("http://[::1]:80", "http://[::1]"), ("tauri://localhost", "tauri://localhost"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"), ("http://a:08080", "http://a:8080"),
    ],
)  # fmt: skip
def test_an_origin_is_written_as_browsers_send_it(text: str, origin: str) -> None:
    assert origin_of(text) == origin
    assert Origins([text]).allows(origin.encode())


@pytest.mark.parametrize(
    "text",
    ["", "app.example", "https://", "https://a/path", "https://a?b", "https://u@a", "https://a:0", "https://a:65536", "null", "**",
     "https://*.example", "https://ä.example", "https://a b", "https://a,https://b", "https://a\r\nx: y"],
)  # fmt: skip
def test_what_is_no_origin_is_refused_with_the_form_of_one(text: str) -> None:
    with pytest.raises(ConfigError, match=r"SCHEME://HOST"):
        GatewaySettings(cors_origin=("*", text))


async def test_without_the_flag_browsers_are_told_nothing(fleet: Site) -> None:
    await fleet.worker(ADD_SUB)
    gateway = await fleet.gateway()
    for path, method, status in ((INFER, "POST", 200), ("/v2", "GET", 200), (INFER, "OPTIONS", 405)):
        answer = await called(gateway, method, path, "http://localhost:3000", **ASKS)
        assert (answer.status_code, told(answer), answer.headers.get("vary")) == (status, {}, None)
    answer = await called(gateway, "POST", INFER, APP)
    assert answer.status_code == 403
    assert "--cors-origin" in answer.json()["error"]


@pytest.mark.parametrize("key", ["", "secret"])
async def test_a_named_origin_may_call_and_read(fleet: Site, key: str) -> None:
    await fleet.worker(ADD_SUB)
    gateway = await fleet.gateway(cors_origin=(APP, "http://localhost:3000"), api_key=key)
    for origin in (APP, "http://localhost:3000"):
        asked = await called(gateway, "OPTIONS", INFER, origin, **ASKS)  # without the key, as browsers ask
        assert (asked.status_code, asked.content) == (204, b"")
        assert told(asked) == {
            "access-control-allow-origin": origin, "access-control-allow-methods": "GET, HEAD, POST, PUT, DELETE",
            "access-control-allow-headers": "authorization,content-type", "access-control-max-age": "7200",
        }  # fmt: skip
        for method, path, status in (
            ("POST", INFER, 200), ("GET", "/v2/models/add_sub", 200), ("POST", "/v2/models/no/infer", 404), ("GET", "/v2/no", 404),
        ):  # fmt: skip
            answer = await called(gateway, method, path, origin, x_api_key=key)
            assert answer.status_code == status, answer.text
            assert answer.headers["access-control-allow-origin"] == origin
            assert answer.headers["access-control-expose-headers"] == ", ".join(EXPOSED)
            assert answer.headers["vary"] == "Origin"
            assert "access-control-allow-credentials" not in answer.headers
    if key:
        refused = await called(gateway, "POST", INFER, APP)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, APP)


@pytest.mark.parametrize("key", ["", "secret"])
async def test_other_origins_stay_outside(fleet: Site, key: str) -> None:
    await fleet.worker(ADD_SUB)
    gateway = await fleet.gateway(cors_origin=(APP,), api_key=key)
    for origin in (
        "https://app.example.evil.com", "http://app.example", "https://app.example:8443", "https://evil.com", "null", "*",
        "https://APP.example",
    ):  # fmt: skip
        for method, path in (("OPTIONS", INFER), ("POST", INFER), ("GET", "/v2/models/add_sub")):
            answer = await called(gateway, method, path, origin, **ASKS)
            assert told(answer) == {}, origin
            assert answer.status_code == (401 if key else 403)
    plain = await gateway.client.get(gateway.url + "/v2/health/live")
    assert plain.headers["vary"] == "Origin"  # a cache must not give this answer to the page


async def test_every_page_may_call_but_none_may_change_anything(fleet: Site) -> None:
    await fleet.worker(ADD_SUB)
    gateway = await fleet.gateway(cors_origin=("*",))
    for origin in (APP, "null", "https://other.example"):
        answer = await called(gateway, "POST", INFER, origin)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
        assert (await called(gateway, "OPTIONS", INFER, origin, **ASKS)).headers["access-control-allow-origin"] == "*"
        refused = await called(gateway, "POST", LOAD, origin)
        assert refused.status_code == 403
        assert "may not change anything here" in refused.json()["error"]


CHANGES = [
    ("POST", LOAD), ("POST", "/v2/repository/models/add_sub/unload"), ("POST", "/v2/logging"), ("POST", "/v2/trace/setting"),
    ("PUT", "/v2/models/add_sub/aliases/a"), ("DELETE", "/v2/models/add_sub/aliases/a"), ("DELETE", "/v2/requests/x"),
    ("POST", "/v2/systemsharedmemory/region/a/register"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), CHANGES)
async def test_pages_of_this_machines_other_servers_change_nothing(fleet: Site, method: str, path: str) -> None:
    """A notebook or another project's page at another port; a browser needs no preflight for text/plain."""
    gateway = await fleet.gateway(allowed_hosts=("models.example",), cors_origin=("http://localhost:4000",))
    port = gateway.gateway.port
    for origin in ("http://localhost:3000", "http://127.0.0.1:1", "http://sub.localhost", f"http://localhost:{port}"):
        answer = await called(gateway, method, path, origin, content_type="text/plain")
        assert (answer.status_code, "--cors-origin" in answer.text) == (403, True), origin
    for origin in (f"http://127.0.0.1:{port}", "http://localhost:4000", "https://models.example"):
        answer = await called(gateway, method, path, origin, content_type="text/plain")
        assert answer.status_code != 403, origin
    assert (await gateway.client.request(method, gateway.url + path)).status_code != 403  # no page


async def test_a_key_says_who_may_change(fleet: Site) -> None:
    gateway = await fleet.gateway(api_key="secret")
    assert (await called(gateway, "POST", LOAD, "https://evil.com")).status_code == 401
    assert (await called(gateway, "POST", "/v2/repository/index", APP, x_api_key="secret")).status_code == 200


def preflight(origins: Origins, **fields: str) -> dict[bytes, bytes] | None:
    asked = {
        "origin": APP,
        "access-control-request-method": "POST",
        **{n.replace("_", "-"): v for n, v in fields.items()},
    }
    lines = origins.preflight("OPTIONS", {name.encode(): value.encode() for name, value in asked.items()})
    return None if lines is None else dict(lines)


def test_a_private_address_is_said_to_expect_public_pages() -> None:
    found = preflight(Origins([APP]), access_control_request_private_network="true")
    assert found is not None
    assert found[b"access-control-allow-private-network"] == b"true"
    assert b"access-control-allow-private-network" not in (preflight(Origins([APP])) or {})


@given(st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=60))
def test_odd_names_of_headers_are_not_repeated(asked: str) -> None:
    names = asked.encode("latin-1")
    fields = {b"origin": APP.encode(), b"access-control-request-method": b"X", b"access-control-request-headers": names}
    lines = Origins([APP]).preflight("OPTIONS", fields)
    assert lines is not None
    allowed: Any = dict(lines)[b"access-control-allow-headers"]
    assert b"\r" not in allowed
    assert b"\n" not in allowed
    assert allowed.isascii()


def test_who_may_change_is_decided_by_origin_and_host() -> None:
    hosts = Hosts(("127.0.0.1", "models.example"), Origins(["*", APP]))
    for origin, host, may in (
        (b"http://LOCALHOST:8000", b"localhost:8000", True), (b"http://localhost:8001", b"localhost:8000", False),
        (b"http://127.0.0.1:3000", b"127.0.0.1:8000", False), (b"http://models.example:99", b"x", True), (APP.encode(), b"x", True),
        (b"https://other.example", b"localhost:8000", False), (b"null", b"null", False), (b"", b"", False), (b"\xff", b"x", False),
    ):  # fmt: skip
        assert (hosts.changing_fault({b"origin": origin, b"host": host}) is None) == may, origin
    assert hosts.changing_fault({b"host": b"localhost:8000"}) is None
