"""Both clients against real gateways, and against servers that break, lie or are something else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from penstock.client import AsyncClient, Client, Pending
from protocol.errors import CodecError, DeadlineExceeded, FleetError, InvalidArgument, TooLarge, Unavailable
from tests.gateway.fleet import ANY, Site, site, until

X = {"IN": np.arange(3, dtype=np.float32)}
HEAD = b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n%b\r\n"
EMPTY = b'{"model_name":"any","model_version":"1","outputs":[]}'
ANSWER = HEAD % (200, len(EMPTY), b"") + EMPTY


def refusal(status: int, headers: bytes = b"") -> bytes:
    return HEAD % (status, 15, headers) + b'{"error":"why"}'


async def end(writers: list[asyncio.StreamWriter]) -> None:
    """Break the connections."""
    for writer in writers:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class Listening:
    """Listens on a free port of loopback for the duration of a `with`; then its connections break."""

    user = ""

    def __init__(self) -> None:
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://{self.user}127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await end(self._writers)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError


class Server(Listening):
    """Answers the n-th request with the n-th script: bytes to write, then whether the connection stays."""

    def __init__(self, *script: tuple[bytes, bool]) -> None:
        super().__init__()
        self.script = list(script)
        self.requests: list[bytes] = []
        self.connections = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                body = await reader.readexactly(int(length or 0))
                self.requests.append(head + body)
                if not self.script:
                    return  # says nothing; the connection stays
                data, stays = self.script.pop(0)
                writer.write(data)
                await writer.drain()
                if not stays:
                    writer.close()
                    return


Call = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["async", "blocking"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Call]]:
    """Makes a client of each kind; its methods are called by name, and awaited."""
    stack = contextlib.AsyncExitStack()

    def made(url: str, **options: Any) -> Call:
        if request.param == "async":
            client = AsyncClient(url, **options)
            stack.push_async_callback(client.close)

            async def call(name: str, *arguments: Any, **more: Any) -> Any:
                return await getattr(client, name)(*arguments, **more)

            return call
        blocking = Client(url, **options)
        stack.callback(blocking.close)

        async def call_blocking(name: str, *arguments: Any, **more: Any) -> Any:
            return await asyncio.to_thread(getattr(blocking, name), *arguments, **more)

        return call_blocking

    async with stack:
        yield made


@pytest.fixture
async def fleet() -> AsyncIterator[Site]:
    async with site() as made:
        yield made


Make = Callable[..., Call]


async def test_every_method(fleet: Site, make: Make) -> None:
    worker = await fleet.worker(ANY)
    call = make(f"127.0.0.1:{(await fleet.gateway()).gateway.port}")

    assert await call("ready")
    assert (await call("infer", "any", X, timeout=20, label="7")).label == "7"
    assert [entry["name"] for entry in await call("models")] == ["any"]
    assert (await call("get", "/v2/models/any"))["name"] == "any"
    worker.open.clear()
    pending = await call("submit", "any", X)
    assert await call("result", pending, 0.01) is None
    worker.open.set()
    answer = await call("result", pending, 20)
    assert answer.outputs["OUT"].tolist() == [0, 1, 2]
    await call("cancel", pending)
    with pytest.raises(FleetError, match="unknown model"):
        await call("infer", "no such model", X, timeout=1)


async def test_a_submission_whose_key_was_answered_before_has_its_answer(fleet: Site, make: Make) -> None:
    await fleet.worker(ANY)
    call = make((await fleet.gateway()).url)
    await call("infer", "any", X, idempotency_key="k")

    pending = await call("submit", "any", X, idempotency_key="k")

    assert pending.answered is not None
    assert (await call("result", pending)).outputs["OUT"].tolist() == [0, 1, 2]
    assert (await call("result", Pending(pending.location, ""), 20)).outputs["OUT"].tolist() == [0, 1, 2]


async def test_a_connection_is_kept_and_one_that_the_server_closed_is_replaced(make: Make) -> None:
    async with Server((ANSWER, True), (ANSWER, False), (ANSWER, True)) as server:
        call = make(server.url)
        for _ in range(2):
            await call("infer", "any", X)
        assert server.connections == 1
        await asyncio.sleep(0.05)  # the end of the connection arrives
        await call("infer", "any", X)

    assert (server.connections, len(server.requests)) == (2, 3)


async def test_a_gateway_that_restarts_between_calls_is_not_noticed(fleet: Site, make: Make) -> None:
    await fleet.worker(ANY)
    first = await fleet.gateway()
    port = first.gateway.port
    call = make(first.url)
    await call("infer", "any", X)
    await first.stop()
    await fleet.gateway(http_port=port)

    assert (await call("infer", "any", X)).outputs["OUT"].tolist() == [0, 1, 2]


async def test_a_connection_that_was_closed_while_the_event_loop_stood_still_is_replaced(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        asked, closed = threading.Event(), threading.Event()

        def serve() -> None:
            first, _ = listening.accept()
            with first:
                first.recv(65536)
                first.sendall(ANSWER)
                assert asked.wait(10)
            closed.set()
            second, _ = listening.accept()
            with second:
                second.recv(65536)
                second.sendall(ANSWER)

        serving = threading.Thread(target=serve)
        serving.start()
        call = make(f"127.0.0.1:{listening.getsockname()[1]}", retries=0)
        await call("infer", "any", X)
        asked.set()
        assert closed.wait(10)
        time.sleep(0.1)  # noqa: ASYNC251  # the loop must not see the end of the connection
        assert (await call("infer", "any", X)).model == "any"
        await asyncio.to_thread(serving.join)


async def test_a_server_that_starts_late_is_waited_for(make: Make) -> None:
    async with Server() as server:
        port = int(server.url.rpartition(":")[2])
    call = make(f"127.0.0.1:{port}", retries=5)
    calling = asyncio.get_running_loop().create_task(call("infer", "any", X))  # type: ignore[arg-type]
    await asyncio.sleep(0.2)
    late = Server((ANSWER, True))
    late._server = await asyncio.start_server(late._serve, "127.0.0.1", port)
    try:
        assert (await calling).model == "any"
    finally:
        await late.__aexit__()


@pytest.mark.parametrize("status", [429, 503])
async def test_what_the_gateway_refuses_for_now_is_sent_again_with_the_time_that_is_left(
    make: Make, status: int
) -> None:
    async with Server((refusal(status, b"retry-after: 0.2\r\n"), True), (ANSWER, True)) as server:
        await make(server.url)("infer", "any", X, timeout=5)

    first, second = (int(sent.partition(b"Penstock-Timeout-Ms: ")[2].partition(b"\r\n")[0]) for sent in server.requests)
    assert first == 5000
    assert 3000 < second <= 4800


async def test_no_attempt_begins_after_the_deadline_and_retries_can_be_switched_off(make: Make) -> None:
    async with Server(*[(refusal(503, b"retry-after: 1\r\n"), True)] * 3) as server:
        with pytest.raises(FleetError, match="why"):
            await make(server.url)("infer", "any", X, timeout=0.5)
        assert len(server.requests) == 1
        with pytest.raises(FleetError, match="why"):
            await make(server.url, retries=0)("infer", "any", X)
        assert len(server.requests) == 2


@pytest.mark.parametrize(("options", "attempts"), [({}, 1), ({"idempotency_key": "k"}, 3)], ids=["plain", "keyed"])
@pytest.mark.parametrize("end", [b"", b"HTTP/1.1 200 OK\r\ncontent-le", ANSWER[:-1]], ids=["none", "head", "body"])
async def test_a_call_that_broke_in_the_middle_is_made_again_only_if_it_is_keyed(
    make: Make, options: dict[str, str], attempts: int, end: bytes
) -> None:
    async with Server((end, False), (end, False), (ANSWER, True)) as server:
        call = make(server.url)("infer", "any", X, **options)
        if attempts == 1:
            with pytest.raises(Unavailable, match="closed the connection before its answer was complete"):
                await call
        else:
            assert (await call).model == "any"

    assert len(server.requests) == attempts


async def test_a_submission_is_keyed_and_so_is_made_again(make: Make) -> None:
    accepted = HEAD % (202, 2, b"location: /v2/requests/h\r\npenstock-request-id: i\r\n") + b"{}"
    async with Server((b"", False), (accepted, True)) as server:
        pending = await make(server.url)("submit", "any", X)

    assert pending == Pending("/v2/requests/h", "i")
    assert server.requests[0] == server.requests[1]
    assert b"Idempotency-Key: " in server.requests[0]


async def test_a_server_that_says_nothing_costs_the_timeout(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.client.wires.HttpWire.slack", 0.1)
    async with Server() as server:
        with pytest.raises(DeadlineExceeded, match=r"gave no answer within 0\.\d+ s"):
            await make(server.url)("infer", "any", X, timeout=0.1)
        with pytest.raises(DeadlineExceeded):
            await make(server.url)("infer", "any", X, timeout=0.1, idempotency_key="k")

    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (b"-ERR unknown command\r\n", InvalidArgument, "is not an HTTP server: its answer begins with '-ERR unknown"),
        (HEAD % (200, 5, b"") + b"<html", CodecError, "not a V2 response"),
        (HEAD % (200, 2, b"inference-header-content-length: x\r\n") + b"{}", CodecError, "not a V2 response"),
        (HEAD % (301, 0, b"location: https://elsewhere/\r\n"), InvalidArgument, "use 'https://elsewhere/'"),
        (HEAD % (200, 10**12, b""), TooLarge, "max_answer_bytes"),
        (HEAD % (502, 3, b"") + b"bad", FleetError, "bad"),
    ],
)
async def test_a_server_that_is_no_gateway_is_said_to_be_none(
    make: Make, answer: bytes, error: type[FleetError], text: str
) -> None:
    async with Server((answer, True)) as server:
        with pytest.raises(error, match=text):
            await make(server.url)("infer", "any", X)


async def test_what_refuses_or_is_no_gateway_is_not_ready(make: Make) -> None:
    async with Server((refusal(503), True), (b"SSH-2.0\r\n", False), (ANSWER, True)) as server:
        call = make(server.url)
        assert [await call("ready") for _ in range(3)] == [False, False, True]
    assert not await make("127.0.0.1:1")("ready")


async def test_a_large_answer_in_both_directions(fleet: Site, make: Make) -> None:
    await fleet.worker(ANY)
    call = make((await fleet.gateway()).url)
    large = np.random.default_rng(0).standard_normal(2_000_000).astype(np.float32)

    answer = await call("infer", "any", {"IN": large})

    assert np.array_equal(answer.outputs["OUT"], large)
    with pytest.raises(TooLarge):
        await make((await fleet.gateway()).url, max_answer_bytes=1000)("infer", "any", {"IN": large})


async def test_a_refusal_before_the_body_was_read_is_understood(fleet: Site, make: Make) -> None:
    await fleet.worker(ANY)
    gateway = await fleet.gateway(max_body_bytes=100_000)

    with pytest.raises((TooLarge, FleetError), match="send fewer rows"):
        await make(gateway.url)("infer", "any", {"IN": np.zeros(3_000_000, np.float32)})


async def test_a_closed_client_says_so(make: Make) -> None:
    call = make("127.0.0.1:1", retries=0)
    await call("close")

    with pytest.raises(InvalidArgument, match="this client is closed"):
        await call("infer", "any", X)


@pytest.mark.parametrize(
    "options",
    [
        {"lane": "fast"},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"idempotency_key": "a\r\nb"},
        {"parameters": {"a": X}},
    ],
)
async def test_a_wrong_option_is_refused_before_anything_is_sent(make: Make, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        await make("127.0.0.1:1", retries=0)("infer", "any", X, **options)


async def test_the_batch_lane_is_asked_for_by_a_header(make: Make) -> None:
    async with Server((ANSWER, True)) as server:
        await make(server.url)("infer", "any", X, lane="batch")

    assert b"\r\nPenstock-Lane: batch\r\n" in server.requests[0]


# --- proxies and TLS ---


class Proxy(Listening):
    """An HTTP proxy: forwards plain requests to one server, and opens tunnels to it."""

    user = "me:word@"

    def __init__(self, target: str, status: bytes = b"200") -> None:
        super().__init__()
        self._port = int(target.rpartition(":")[2])
        self._status = status
        self.heads: list[bytes] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += (writer, up_writer)
        if head.startswith(b"CONNECT"):
            writer.write(b"HTTP/1.1 %b X\r\n\r\n" % self._status)
        else:
            up_writer.write(head)
        await asyncio.gather(_pipe(reader, up_writer), _pipe(up_reader, writer))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def behind(monkeypatch: pytest.MonkeyPatch, proxy: Proxy) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("https_proxy", proxy.url)


async def test_a_plain_server_behind_a_proxy(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Server((ANSWER, True)) as server, Proxy(server.url) as proxy:
        behind(monkeypatch, proxy)
        assert (await make("http://models.example")("infer", "any", X)).model == "any"
        monkeypatch.setenv("no_proxy", "example")
        with pytest.raises(Unavailable, match=r"^http://models.example cannot be reached: (?!the proxy)"):
            await make("http://models.example", retries=0)("infer", "any", X)

    assert proxy.heads[0].startswith(
        b"POST http://models.example/v2/models/any/infer HTTP/1.1\r\nhost: models.example\r\n"
    )
    assert b"proxy-authorization: Basic bWU6d29yZA==" in proxy.heads[0]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for models.example, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=models.example",
         "-addext", "subjectAltName=DNS:models.example,IP:127.0.0.1", "-keyout", folder / "key", "-out", folder / "cert"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


class TlsServer(Server):
    def __init__(self, certificate: Path, *script: tuple[bytes, bool]) -> None:
        super().__init__(*script)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate / "cert", certificate / "key")

    async def __aenter__(self) -> Server:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.url = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self


async def test_tls_directly_and_through_a_proxys_tunnel(
    make: Make, monkeypatch: pytest.MonkeyPatch, certificate: Path
) -> None:
    trusted = ssl.create_default_context(cafile=str(certificate / "cert"))
    async with TlsServer(certificate, *[(ANSWER, True)] * 4) as server, Proxy(server.url) as proxy:
        direct = make(server.url, tls=trusted)
        for _ in range(2):
            assert (await direct("infer", "any", X)).model == "any"
        with pytest.raises(Unavailable, match="its certificate is not trusted: self-signed certificate"):
            await make(server.url, retries=0)("infer", "any", X)
        behind(monkeypatch, proxy)
        through = make("https://models.example", tls=trusted)
        for _ in range(2):
            assert (await through("infer", "any", X)).model == "any"

    assert len(proxy.heads) == 1
    assert proxy.heads[0].startswith(b"CONNECT models.example:443 HTTP/1.1\r\n")


async def test_a_proxy_that_refuses_the_tunnel(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Server() as server, Proxy(server.url, b"407") as proxy:
        behind(monkeypatch, proxy)
        with pytest.raises(Unavailable, match="refused the tunnel with status 407"):
            await make("https://models.example", retries=0)("infer", "any", X)


# --- threads, loops, processes ---


def test_a_client_outlives_its_event_loop_but_serves_one_at_a_time() -> None:
    client = AsyncClient("127.0.0.1:1", retries=0)

    async def call() -> None:
        with pytest.raises(Unavailable, match="connection refused"):
            await client.infer("any", X)

    async def in_another_loop() -> None:
        await call()

        def run() -> None:
            async def wrong() -> None:
                with pytest.raises(InvalidArgument, match="another event loop"):
                    await client.infer("any", X)

            asyncio.run(wrong())

        await asyncio.to_thread(run)

    asyncio.run(call())
    asyncio.run(in_another_loop())


async def test_threads_share_a_blocking_client(fleet: Site) -> None:
    await fleet.worker(ANY)
    with Client((await fleet.gateway()).url) as client:

        def calls() -> list[float]:
            return [float(client.infer("any", {"IN": [np.float32(i)]}).outputs["OUT"][0]) for i in range(50)]

        found = await asyncio.gather(*[asyncio.to_thread(calls) for _ in range(8)])

    assert found == [[float(i) for i in range(50)]] * 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
async def test_a_forked_process_does_not_use_its_parents_connections() -> None:
    code = """
import os, sys
import numpy as np
from penstock import Client
client = Client(sys.argv[1])
x = {"IN": np.zeros(3, np.float32)}
client.infer("any", x)
child = os.fork()
client.infer("any", x)
if not child: os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    async with Server(*[(ANSWER, True)] * 3) as server:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, server.url)
        assert await process.wait() == 0

    assert (server.connections, len(server.requests)) == (2, 3)


async def test_a_cancelled_call_closes_its_connection_and_the_client_goes_on() -> None:
    async with Server() as server, AsyncClient(server.url) as client:
        calling = asyncio.get_running_loop().create_task(client.infer("any", X))
        await until(lambda: server.requests)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        server.script.append((ANSWER, True))
        assert (await client.infer("any", X)).model == "any"

    assert server.connections == 2


async def test_closing_ends_the_calls_in_flight() -> None:
    async with Server() as server:
        client = AsyncClient(server.url, retries=0)
        calling = asyncio.get_running_loop().create_task(client.infer("any", X))
        await until(lambda: server.requests)
        await client.close()
        with pytest.raises(Unavailable):
            await calling


async def test_no_more_calls_are_in_flight_than_connections_are_allowed(fleet: Site) -> None:
    worker = await fleet.worker(ANY)
    gateway = await fleet.gateway()
    async with AsyncClient(gateway.url, connections=3) as client:
        await asyncio.gather(*[client.infer("any", X) for _ in range(30)])
        assert len(client._connections._open) <= 3

    assert len(worker.ran) == 30
