"""Answers leave in the order of their requests, whatever produces them and however early."""

from __future__ import annotations

import asyncio
import random

import orjson
import pytest

from tests.gateway.fleet import Site, add_sub, raw_request, read_response, until
from tests.gateway.wire import BODY, closed

LARGE = b" " * 70_000


def good(number: int) -> tuple[bytes, int]:
    return raw_request(orjson.dumps(add_sub(id=str(number)))), 200


def keyed(number: int) -> tuple[bytes, int]:
    return raw_request(BODY, "idempotency-key: same"), 200


def other(number: int) -> tuple[bytes, int]:
    return raw_request(b"", path="/v2/models/add_sub", method="GET"), 200


def unknown(number: int) -> tuple[bytes, int]:
    return raw_request(BODY, path="/v2/models/x/infer"), 404


def malformed(number: int) -> tuple[bytes, int]:
    return raw_request(b"{"), 400


def too_large(number: int) -> tuple[bytes, int]:
    return raw_request(LARGE), 413


def too_large_in_chunks(number: int) -> tuple[bytes, int]:
    return raw_request(b"", "transfer-encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(LARGE), LARGE), 413


def offer(number: int) -> tuple[bytes, int]:
    return raw_request(BODY, "connection: upgrade", "upgrade: h2c"), 200


def not_http(number: int) -> tuple[bytes, int]:
    return b"nonsense\r\n\r\n", 400


def two_hosts(number: int) -> tuple[bytes, int]:
    return raw_request(BODY, "host: localhost"), 400


def long_head(number: int) -> tuple[bytes, int]:
    return raw_request(BODY, "x: " + "y" * 40_000), 431


def broken_chunk(number: int) -> tuple[bytes, int]:
    return raw_request(b"", "transfer-encoding: chunked") + b"zz\r\n", 400


def broken_chunk_of_another_route(number: int) -> tuple[bytes, int]:
    return raw_request(b"", "transfer-encoding: chunked", path="/v2/repository/index") + b"zz\r\n", 400


def long_trailer(number: int) -> tuple[bytes, int]:
    return raw_request(b"", "transfer-encoding: chunked") + b"0\r\nx: " + b"y" * 40_000 + b"\r\n\r\n", 431


GOES_ON = (good, good, good, keyed, other, unknown, malformed, too_large, too_large_in_chunks, offer)
ENDS = (not_http, two_hosts, long_head, broken_chunk, broken_chunk_of_another_route, long_trailer)


@pytest.mark.parametrize("refused", [too_large, too_large_in_chunks, *ENDS])
async def test_a_refused_second_request_is_answered_after_the_first(fleet: Site, refused: object) -> None:
    assert callable(refused)
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway(max_body_bytes=66_000)
    reader, writer = await gateway.connect()
    second, status = refused(1)
    writer.write(good(0)[0] + second)
    await until(lambda: gateway.metric("penstock_gateway_inflight") == 1)
    first = asyncio.ensure_future(read_response(reader))
    for _ in range(20):
        await gateway.get("/v2/health/live")
    assert not first.done()
    worker.open.set()

    assert (await first).json["id"] == "0"
    assert (await read_response(reader)).status == status
    writer.close()


async def test_random_pipelines_are_answered_in_order_and_once(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway(max_body_bytes=66_000)
    for seed in range(150):
        source = random.Random(seed)
        kinds = [source.choice(GOES_ON) for _ in range(source.randrange(1, 12))]
        if source.randrange(3):
            kinds.append(source.choice(ENDS))
        requests = [kind(number) for number, kind in enumerate(kinds)]
        sent = b"".join([request for request, _ in requests])
        reader, writer = await gateway.connect()
        at = 0
        while at < len(sent):
            step = source.choice([50, 3000, 200_000])
            writer.write(sent[at : at + step])
            at += step
            if step < 3000:
                await gateway.get("/v2/health/live")
        for number, (kind, (_, status)) in enumerate(zip(kinds, requests, strict=True)):
            answer = await asyncio.wait_for(read_response(reader), 10)
            assert answer.status == status, (seed, number, kinds)
            if kind is good:
                assert answer.json["id"] == str(number), (seed, number, kinds)
            if answer.headers.get("connection") == "close":
                assert kind in (too_large, too_large_in_chunks, *ENDS), (seed, number, kinds)
                assert await closed(reader) == b"", (seed, number, kinds)
                break
        else:
            assert kinds[-1] not in ENDS, (seed, kinds)
        writer.close()
    await until(lambda: gateway.metric("penstock_gateway_inflight") == 0)
    assert gateway.metric("penstock_gateway_queued_bytes") == 0
