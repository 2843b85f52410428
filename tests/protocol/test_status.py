import asyncio
import contextlib
import threading
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter

from protocol.errors import ConfigError
from protocol.runtime import status
from protocol.runtime.status import StatusServer


def get(port: int, path: str, method: str = "GET") -> tuple[int, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


async def no_reasons() -> list[str]:
    return []


async def started(server: StatusServer) -> int:
    """Its port."""
    await server.start("127.0.0.1", 0)
    assert server.port is not None
    return server.port


async def test_metrics_and_health() -> None:
    registry = CollectorRegistry()
    Counter("seen", "Things.", registry=registry).inc(3)
    problems = ["it is starting"]

    async def readiness() -> list[str]:
        return problems

    server = StatusServer(registry, readiness)
    port = await started(server)

    async def ask(path: str, method: str = "GET") -> tuple[int, bytes]:
        return await asyncio.to_thread(get, port, path, method)

    code, body = await ask("/metrics?x=1")
    assert code == 200
    assert b"seen_total 3.0" in body
    assert await ask("/v2/health/live") == (200, b"")
    assert await ask("/v2/health/ready") == (503, b"it is starting")
    problems.clear()
    assert await ask("/v2/health/ready") == (200, b"")
    assert (await ask("/nothing"))[0] == 404
    assert (await ask("/metrics", "POST"))[0] == 405
    assert await ask("/v2/health/live", "HEAD") == (200, b"")
    await server.close()


async def test_strangers_do_no_harm() -> None:
    server = StatusServer(CollectorRegistry(), no_reasons)
    port = await started(server)
    for sent in (b"\r\n\r\n", b"\x16\x03\x01\x00\r\n\r\n", b"x" * 40_000, b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
    assert (await asyncio.to_thread(get, port, "/v2/health/live"))[0] == 200
    await server.close()


async def test_without_a_port_it_does_not_listen() -> None:
    server = StatusServer(CollectorRegistry(), no_reasons)
    await server.start("127.0.0.1", None)
    assert (server.port, server.address) == (None, "")
    await server.close()


async def test_a_port_that_is_taken_is_named() -> None:
    first, second = StatusServer(CollectorRegistry(), no_reasons), StatusServer(CollectorRegistry(), no_reasons)
    port = await started(first)
    with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
        await second.start("127.0.0.1", port)
    await first.close()


async def test_silent_sockets_are_ended_and_counted_and_take_no_place() -> None:
    before = threading.active_count()
    server = StatusServer(CollectorRegistry(), no_reasons, timeout=60.0)
    port = await started(server)
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(status.MAX_CONNECTIONS + 10)]
    for reader, _ in silent[:10]:
        assert await asyncio.wait_for(reader.read(), 10) == b""

    assert server.cut == 10
    assert threading.active_count() - before <= 1
    assert (await asyncio.to_thread(get, port, "/v2/health/live"))[0] == 200
    for _, writer in silent:
        writer.close()
    await server.close()


async def test_a_silent_socket_is_ended_after_a_while() -> None:
    server = StatusServer(CollectorRegistry(), no_reasons, timeout=0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", await started(server))

    assert await asyncio.wait_for(reader.read(), 10) == b""
    assert server.cut == 1
    writer.close()
    await server.close()
