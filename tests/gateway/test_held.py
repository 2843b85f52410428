"""Bytes that any caller can make a gateway hold: counted before they are kept, refused over the limit, returned once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pytest

from tests.gateway.fleet import ANY, Running, Site, raw_request, read_response, until
from tests.gateway.turns import turns
from tests.gateway.wire import BODY, closed, exchange

LIVE, INDEX, INFER = "/v2/health/live", "/v2/repository/index", "/v2/models/add_sub/infer"
CHUNKED = "transfer-encoding: chunked"


def held(gateway: Running) -> float:
    return gateway.metric("penstock_gateway_held_bytes")


def connections(gateway: Running) -> list[Any]:
    return list(gateway.gateway._http._server.server_state.connections)


def base(gateway: Running) -> float:
    """Bytes held without connections: cached routes and heads."""
    http = gateway.gateway._http
    return float(http._frontend._routes._share.size + http._heads._share.size)


async def nothing_left(gateway: Running) -> None:
    await until(lambda: not connections(gateway))
    await until(lambda: held(gateway) == base(gateway))


def endless(first: bytes, piece: bytes) -> Iterator[bytes]:
    yield first
    while True:
        yield piece


async def send_until_answered(gateway: Running, pieces: Iterator[bytes], most: int) -> tuple[Any, int]:
    """The answer to an endless request, and the bytes that were sent until then."""
    reader, writer = await gateway.connect()
    answered = asyncio.ensure_future(read_response(reader))
    sent = 0
    with contextlib.suppress(ConnectionError):
        while not answered.done() and sent < most:
            piece = next(pieces)
            sent += len(piece)
            writer.write(piece)
            await writer.drain()
            await asyncio.wait([answered], timeout=0.001)
    answer = await asyncio.wait_for(answered, 10)
    writer.close()
    return answer, sent


@pytest.mark.parametrize("method_and_path", [("GET", LIVE), ("POST", LIVE), ("POST", INDEX), ("POST", INFER)])
@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"0\r\n", b"x-trailer: y\r\n" * 50),
        (b"0\r\n", b"x: " + b"y" * 700 + b"\r\n"),
        (b"0\r\nx: ", b"y" * 700),
        (b"2\r\n{}\r\n0\r\n", b"x: " + b"y" * 60_000 + b"\r\n"),
        (b"2;a=", b"y" * 700),
        (b"2\r\n{}\r\n0;", b"y" * 700),
    ],
    ids=["many trailers", "long trailers", "an endless trailer", "few large ones", "an extension", "a last extension"],
)
async def test_trailers_and_chunk_extensions_are_bounded_like_headers_before_a_key_is_asked_for(
    fleet: Site, start: bytes, piece: bytes, method_and_path: tuple[str, str]
) -> None:
    gateway = await fleet.gateway(api_key="secret", max_header_bytes=8192)
    method, path = method_and_path
    reader, writer = await gateway.connect()
    writer.write(raw_request(b"", CHUNKED, path=path, method=method) + start)
    sent = 0
    with contextlib.suppress(ConnectionError):
        while not any(connection._refused for connection in connections(gateway)) and sent < 3_000_000:
            writer.write(piece)
            sent += len(piece)
            await writer.drain()
            await turns(1)

    assert sent < 2_000_000
    rest = await closed(reader)
    assert rest.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 401 ", b"HTTP/1.1 200 ", b"HTTP/1.1 405 "))
    assert rest.count(b"HTTP/1.1 ") == 1
    writer.close()
    await nothing_left(gateway)


async def test_endless_empty_lines_end_the_connection(fleet: Site) -> None:
    gateway = await fleet.gateway(max_header_bytes=8192)

    answer, sent = await send_until_answered(gateway, endless(b"\r\n", b"\r\n" * 500), 3_000_000)

    assert (answer.status, answer.headers["connection"]) == (431, "close")
    assert answer.headers["penstock-error"] == "TOO_LARGE"
    assert gateway.metric('penstock_gateway_rejections_total{code="TOO_LARGE"}') == 1
    assert sent < 2_000_000


async def test_a_body_of_tiny_chunks_without_end_is_refused(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    pieces = endless(raw_request(b"", CHUNKED), b"1\r\n \r\n" * 5000)

    answer, sent = await send_until_answered(gateway, pieces, 10_000_000)

    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert "chunks" in answer.json["error"]
    assert sent < 2_000_000


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", LIVE), ("GET", "/v2/models/add_sub"), ("DELETE", "/v2/requests/x")]
)
async def test_a_body_that_no_route_needs_is_not_kept(fleet: Site, method: str, path: str, framing: str) -> None:
    await fleet.worker()
    gateway = await fleet.gateway(api_key="secret")
    reader, writer = await gateway.connect()
    size, piece = 16_000_000, bytes(100_000)
    line = f"content-length: {size}" if framing == "length" else CHUNKED
    writer.write(raw_request(b"", line, path=path, method=method))
    first = await read_response(reader)
    most = 0.0
    for _ in range(0, size, len(piece)):
        writer.write(piece if framing == "length" else b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
        most = max(most, held(gateway), *[len(connection.cycle.body) for connection in connections(gateway)])
    writer.write(b"" if framing == "length" else b"0\r\n\r\n")
    writer.write(raw_request(b"", path=LIVE, method="GET"))

    assert most < 10_000
    assert first.status in (200, 401)
    assert (await read_response(reader)).status == 200
    writer.close()


async def test_a_body_behind_a_waiting_request_is_not_kept_either(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    reader, writer = await gateway.connect()
    writer.write(raw_request(BODY) + raw_request(bytes(200_000), path=LIVE, method="GET"))
    await until(lambda: gateway.metric("penstock_gateway_inflight") == 1)
    await until(lambda: any(connection.pipeline for connection in connections(gateway)))

    assert [len(cycle.body) for connection in connections(gateway) for cycle, _ in connection.pipeline] == [0]
    worker.open.set()
    assert [(await read_response(reader)).status for _ in range(2)] == [200, 200]
    writer.close()


async def test_a_large_body_of_another_route_is_413(fleet: Site) -> None:
    gateway = await fleet.gateway()

    answer = await exchange(gateway, raw_request(b" " * 200_000, path=INDEX))

    assert answer.status == 413


async def test_heads_that_do_not_end_draw_from_the_strangers_part_and_leave_room_for_others(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway(max_queued_bytes=2_000_000, api_key="secret")
    writers = []
    for _ in range(40):
        _, writer = await gateway.connect()
        writer.write(b"GET /v2 HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 20_000)
        writers.append(writer)
    await until(lambda: sum(connection._refused for connection in connections(gateway)) >= 10)

    assert 400_000 < held(gateway) <= 500_000
    answer = await exchange(gateway, raw_request(BODY, "x-api-key: secret"))
    assert answer.status == 200
    for writer in writers:
        writer.close()
    await nothing_left(gateway)


async def test_small_bodies_that_do_not_end_are_counted_too(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway(max_queued_bytes=1_000_000)
    connected = [await gateway.connect() for _ in range(40)]
    for _, writer in connected:
        writer.write(raw_request(b"", "content-length: 60000") + b" " * 50_000)
    await until(lambda: gateway.metric('penstock_gateway_rejections_total{code="EXHAUSTED"}') >= 20)

    assert held(gateway) <= 1_000_000
    for _, writer in connected:
        writer.close()
    await nothing_left(gateway)


async def test_a_large_head_is_counted_for_as_long_as_its_request_waits(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    reader, writer = await gateway.connect()
    writer.write(raw_request(BODY, "x: " + "y" * 30_000))
    await until(lambda: gateway.metric("penstock_gateway_inflight") == 1)

    assert held(gateway) > 30_000
    worker.open.set()
    assert (await read_response(reader)).status == 200
    await until(lambda: held(gateway) == base(gateway))
    writer.close()


async def test_a_pipeline_is_counted_and_over_the_limit_what_was_not_begun_is_not_kept(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway(max_queued_bytes=1_000_000)
    reader, writer = await gateway.connect()
    writer.write(raw_request(BODY) + raw_request(b"", path=LIVE, method="GET") * 4000)
    await until(lambda: any(connection._refused for connection in connections(gateway)))

    assert held(gateway) < 250_000
    assert [len(connection.pipeline) for connection in connections(gateway)] == [1]
    worker.open.set()
    assert [(await read_response(reader)).status for _ in range(2)] == [200, 503]
    assert await closed(reader) == b""
    writer.close()
    await nothing_left(gateway)


async def test_a_read_of_thousands_of_requests_becomes_objects_piece_by_piece(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    reader, writer = await gateway.connect()
    writer.write(raw_request(BODY) + raw_request(b"", path=LIVE, method="GET") * 3000)
    await until(lambda: any(connection._rest for connection in connections(gateway)))

    assert max(len(connection.pipeline) for connection in connections(gateway)) < 400
    worker.open.set()
    assert [(await read_response(reader)).status for _ in range(3001)] == [200] * 3001
    writer.close()
    await nothing_left(gateway)


# --- answers that are not read ----------------------------------------------------------------------------------------


def large_call(*lines: str, version: str = "1.1", count: int = 2_000_000) -> bytes:
    """A request whose answer has 8 MB."""
    head = orjson.dumps(
        {
            "inputs": [
                {"name": "IN", "datatype": "FP32", "shape": [count], "parameters": {"binary_data_size": 4 * count}}
            ],
            "outputs": [{"name": "OUT", "parameters": {"binary_data": True}}],
        }
    )
    body = head + np.zeros(count, np.float32).tobytes()
    request = raw_request(body, f"inference-header-content-length: {len(head)}", *lines, path="/v2/models/any/infer")
    return request.replace(b"HTTP/1.1", b"HTTP/" + version.encode(), 1)


async def silent(gateway: Running, sent: bytes) -> socket.socket:
    """A client that sends and never reads."""
    loop = asyncio.get_running_loop()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await loop.sock_connect(client, ("127.0.0.1", gateway.gateway.port))
    await loop.sock_sendall(client, sent)
    return client


@pytest.mark.parametrize(
    "sent",
    [large_call(), large_call("connection: close"), large_call(version="1.0")],
    ids=["keep-alive", "close", "HTTP/1.0"],
)
async def test_a_client_that_never_reads_is_ended_whatever_its_connection_header_says(fleet: Site, sent: bytes) -> None:
    worker = await fleet.worker(ANY)
    gateway = await fleet.gateway(read_timeout=0.5)
    client = await silent(gateway, sent)
    await until(lambda: len(worker.ran) == 1)
    await until(lambda: held(gateway) > 1_000_000)

    await nothing_left(gateway)
    client.close()


async def test_answers_that_nobody_reads_are_bounded_and_the_one_unread_for_longest_ends(fleet: Site) -> None:
    worker = await fleet.worker(ANY)
    gateway = await fleet.gateway(max_queued_bytes=30_000_000)
    clients = []
    for number in range(6):
        clients.append(await silent(gateway, large_call("connection: close")))
        await until(lambda number=number: len(worker.ran) == number + 1)
        await until(lambda: held(gateway) > 1_000_000)
        assert gateway.gateway.service.budgets.unread.used <= 15_000_000
    await until(lambda: len(connections(gateway)) < 6)

    reader, writer = await gateway.connect()
    writer.write(large_call())
    answer = await asyncio.wait_for(read_response(reader), 10)
    assert (answer.status, len(answer.body) > 8_000_000) == (200, True)
    writer.close()
    for client in clients:
        client.close()
    await nothing_left(gateway)


async def test_a_client_that_goes_amid_a_large_body_leaves_nothing(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    _, writer = await gateway.connect()
    writer.write(raw_request(b"", "content-length: 600000") + b" " * 300_000)
    await until(lambda: [connection._missing for connection in connections(gateway)] == [300_000])
    assert held(gateway) == base(gateway) + 600_000
    writer.close()

    await nothing_left(gateway)


async def test_a_large_body_that_comes_too_slowly_is_refused_and_freed_at_once(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway(read_timeout=0.5)
    reader, writer = await gateway.connect()
    writer.write(raw_request(b"", "content-length: 600000") + b" " * 300_000)

    assert (await asyncio.wait_for(read_response(reader), 10)).status == 408
    assert held(gateway) == base(gateway)
    writer.write(b" " * 300_000 + raw_request(BODY))
    assert await closed(reader) == b""
    writer.close()
