"""Connections over a limit: too large, too slow, too many, not HTTP, gone."""

from __future__ import annotations

import asyncio
import contextlib
import random

import orjson
import pytest

from tests.gateway.fleet import ANY, Site, floats, raw_request, read_response, site, until
from tests.gateway.wire import BODY, closed, exchange

POST = b"POST /v2/models/add_sub/infer HTTP/1.1\r\nhost: localhost\r\n"


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit_is_413_and_names_the_limit(fleet: Site, declared: bool) -> None:
    await fleet.worker()
    gateway = await fleet.gateway(max_body_bytes=200_000)
    reader, writer = await gateway.connect()
    if declared:
        writer.write(raw_request(b"", "content-length: 200001"))
    else:
        writer.write(raw_request(b"", "transfer-encoding: chunked"))
        for _ in range(30):
            writer.write(b"2710\r\n" + bytes(10_000) + b"\r\n")
    answer = await read_response(reader)

    assert answer.status == 413
    assert "are allowed: send fewer rows" in answer.json["error"]
    assert answer.headers["connection"] == "close"
    assert len(answer.headers["penstock-request-id"]) == 32
    assert await closed(reader) == b""
    writer.close()
    assert gateway.metric("penstock_gateway_queued_bytes") == 0


async def test_a_refused_body_that_still_comes_does_not_reset_the_answer(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway(max_body_bytes=100_000)
    reader, writer = await gateway.connect()
    size = 2_000_000
    writer.write(raw_request(b"", f"content-length: {size}") + bytes(size))

    assert (await read_response(reader)).status == 413
    assert await closed(reader) == b""
    writer.close()


async def test_a_refused_small_body_keeps_the_connection(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway(api_key="secret")
    reader, writer = await gateway.connect()
    writer.write(raw_request(BODY) + raw_request(BODY, "x-api-key: secret"))

    assert [(await read_response(reader)).status for _ in range(2)] == [401, 200]
    writer.close()


async def test_bodies_being_read_count_against_the_queue(fleet: Site) -> None:
    await fleet.worker(ANY)
    gateway = await fleet.gateway(max_queued_bytes=300_000)
    _, first = await gateway.connect()
    first.write(raw_request(b"", "content-length: 250000", path="/v2/models/any/infer"))
    await until(lambda: gateway.metric("penstock_gateway_queued_bytes") == 250_000)

    refused = await exchange(gateway, raw_request(b"", "content-length: 100000", path="/v2/models/any/infer"))
    first.close()
    await until(lambda: gateway.metric("penstock_gateway_queued_bytes") == 0)

    assert refused.status == 429
    assert (await gateway.infer(floats(20_000), "any")).status_code == 200
    assert gateway.metric("penstock_gateway_queued_bytes") == 0


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v2 HTTP/1.1\r\nhost: localhost\r\n" + b"x: %b\r\n" % (b"y" * 40_000) + b"\r\n",
        b"GET /v2 HTTP/1.1\r\nhost: localhost\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(300)) + b"\r\n",
        b"GET /%b HTTP/1.1\r\nhost: localhost\r\n\r\n" % (b"y" * 40_000),
        POST + b"x: " + b"y" * 700_000,
    ],
    ids=["one large header", "many headers", "a long target", "an endless header"],
)
async def test_a_head_over_the_limit_is_431(fleet: Site, head: bytes) -> None:
    gateway = await fleet.gateway()

    answer = await exchange(gateway, head)

    assert answer.status == 431
    assert "headers" in answer.json["error"]
    assert answer.headers["connection"] == "close"


async def test_a_refused_head_waits_for_the_answers_before_it(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    reader, writer = await gateway.connect()
    writer.write(raw_request(BODY) + b"nonsense\r\n\r\n" + raw_request(BODY))
    await until(lambda: gateway.metric("penstock_gateway_inflight") == 1)
    worker.open.set()

    answers = [await read_response(reader) for _ in range(2)]

    assert [answer.status for answer in answers] == [200, 400]
    assert answers[1].headers["connection"] == "close"
    assert await closed(reader) == b""
    assert len(worker.ran) == 1
    writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        POST + b"content-length: -5\r\n\r\n",
        POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v2/models/add_sub/infer HTTP/1.1\r\nhost : x\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_400(fleet: Site, sent: bytes) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway()

    answer = await exchange(gateway, sent)

    assert answer.status in (400, 404, 405)
    assert "error" in answer.json
    assert "Traceback" not in answer.body.decode()
    assert worker.ran == []
    assert (await gateway.infer()).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        raw_request(b"", "content-length: 500") + b"half of it",
        POST,
        raw_request(b"", "content-length: 500", path="/v2/repository/index") + b"{",
    ],
    ids=["a body", "a head", "another route's body"],
)
async def test_a_request_that_does_not_come_is_408(fleet: Site, sent: bytes) -> None:
    await fleet.worker()
    gateway = await fleet.gateway(read_timeout=0.2, keep_alive=60.0)
    reader, writer = await gateway.connect()
    writer.write(sent)

    rest = await closed(reader)

    assert rest == b"" or rest.startswith(b"HTTP/1.1 408 ")
    assert rest or b"repository" in sent
    writer.close()


async def test_a_body_that_trickles_is_408_too(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway(read_timeout=0.3, keep_alive=60.0)
    reader, writer = await gateway.connect()
    writer.write(raw_request(b"", "content-length: 100000"))
    answered = asyncio.ensure_future(read_response(reader))
    with contextlib.suppress(ConnectionError):
        while not answered.done():
            writer.write(b"x")
            await asyncio.wait([answered], timeout=0.02)

    assert (await answered).status == 408
    writer.close()


async def test_an_idle_connection_is_closed_and_a_waiting_one_is_not(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway(keep_alive=0.1, read_timeout=60.0)
    idle, idle_writer = await gateway.connect()
    used, used_writer = await gateway.connect()
    used_writer.write(raw_request(b"", path="/v2/health/live", method="GET"))
    await read_response(used)
    waiting, waiting_writer = await gateway.connect()
    waiting_writer.write(raw_request(BODY))

    assert await closed(idle) == b""
    assert await closed(used) == b""
    worker.open.set()
    assert (await read_response(waiting)).status == 200
    for writer in (idle_writer, used_writer, waiting_writer):
        writer.close()


async def test_one_connection_too_many_is_503(fleet: Site) -> None:
    gateway = await fleet.gateway(max_connections=2)
    open_ones = [await gateway.connect() for _ in range(2)]
    await until(lambda: len(gateway.gateway._http._server.server_state.connections) == 2)

    reader, writer = await gateway.connect()
    answer = await read_response(reader)

    assert answer.status == 503
    assert "connections open, which is its limit" in answer.json["error"]
    for _, other in [*open_ones, (reader, writer)]:
        other.close()


async def test_a_client_that_does_not_read_is_not_read_either(fleet: Site) -> None:
    worker = await fleet.worker(ANY)
    gateway = await fleet.gateway(read_timeout=60.0)
    reader, writer = await gateway.connect()
    request = raw_request(orjson.dumps(floats(30_000)), path="/v2/models/any/infer")
    sent = 200
    writing = asyncio.ensure_future(_write_all(writer, request, sent))

    await until(lambda: len(worker.ran) >= 3)
    ran = -1
    while ran != len(worker.ran):
        ran = len(worker.ran)
        for _ in range(200):
            await gateway.get("/v2/health/live")
    assert ran < sent / 2, "answers that nobody reads must not pile up"

    for _ in range(sent):
        assert (await read_response(reader)).status == 200
    await writing
    writer.close()


async def _write_all(writer: asyncio.StreamWriter, request: bytes, times: int) -> None:
    for _ in range(times):
        writer.write(request)
        await writer.drain()


async def test_a_disconnect_while_the_body_comes_leaves_nothing_behind(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway()
    for sent in (raw_request(b"", "content-length: 90000") + b"x" * 80_000, raw_request(BODY)[:-5], b"POST /v2"):
        _, writer = await gateway.connect()
        writer.write(sent)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    await until(lambda: not gateway.gateway._http._server.server_state.connections)
    assert gateway.metric("penstock_gateway_queued_bytes") == 0
    assert gateway.metric("penstock_gateway_inflight") == 0
    assert worker.ran == []


async def test_a_disconnect_cancels_every_pipelined_call(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()
    _, writer = await gateway.connect()
    writer.write(raw_request(BODY))
    await until(lambda: gateway.metric("penstock_gateway_inflight") == 1)

    writer.close()

    await until(lambda: len(worker.cancelled) == 1)
    assert gateway.metric("penstock_gateway_inflight") == 0


def noise(source: random.Random) -> bytes:
    """A malformed request, or bytes that are no request."""
    request = bytearray(raw_request(BODY, *(["connection: close"] * source.randrange(2))))
    for _ in range(source.randrange(1, 6)):
        at = source.randrange(len(request))
        match source.randrange(4):
            case 0:
                request[at] = source.randrange(256)
            case 1:
                del request[at : at + source.randrange(20)]
            case 2:
                request[at:at] = source.randbytes(source.randrange(30))
            case _:
                request[at:at] = request[: source.randrange(60)]
    return bytes(request) if source.randrange(5) else source.randbytes(source.randrange(1, 3000))


async def test_no_bytes_break_the_gateway() -> None:
    async with site() as fleet:
        await fleet.worker()
        gateway = await fleet.gateway()
        for seed in range(300):
            reader, writer = await gateway.connect()
            writer.write(noise(random.Random(seed)))
            with contextlib.suppress(ConnectionError):
                await writer.drain()
                writer.write_eof()
            rest = await closed(reader)
            assert b"Traceback" not in rest
            assert b"HTTP/1.1 500" not in rest
            writer.close()

        assert (await gateway.infer()).status_code == 200
        await until(lambda: gateway.metric("penstock_gateway_inflight") == 0)
        assert gateway.metric("penstock_gateway_queued_bytes") == 0
