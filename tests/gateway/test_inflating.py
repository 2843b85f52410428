"""Compressed bodies: every step is counted in advance, a few bodies at once, and long ones off the loop."""

from __future__ import annotations

import asyncio
import gc
import gzip
import itertools
import tracemalloc
import zlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rest.compression import Inflation, decompress
from gateway.rest.inflating import ON_LOOP, STEP, Inflater
from protocol.errors import CodecError, Exhausted, FleetError
from tests.gateway.fleet import ANY, Running, Site, floats, until

BOMB = gzip.compress(bytes(15_000_000), compresslevel=9)
LIMIT = 16_000_000


@given(st.binary(max_size=3000), st.integers(1, 1000), st.sampled_from(["gzip", "deflate", "raw", "identity"]))
def test_steps_make_what_one_step_makes(body: bytes, size: int, encoding: str) -> None:
    engine = zlib.compressobj(wbits={"gzip": 31, "deflate": 15, "raw": -15, "identity": 15}[encoding])
    packed = body if encoding == "identity" else engine.compress(body) + engine.flush()
    inflation = Inflation(packed, encoding.replace("raw", "deflate"), 3000)
    while not inflation.done:
        before = len(inflation.raw)
        inflation.step(size)
        assert len(inflation.raw) - before <= size

    assert bytes(inflation.raw) == body


@given(st.binary(max_size=200), st.integers(1, 50), st.sampled_from(["gzip", "deflate"]))
def test_steps_of_any_bytes_end(body: bytes, size: int, encoding: str) -> None:
    inflation = Inflation(body, encoding, 100)
    try:
        for _ in range(1000):
            inflation.step(size)
            if inflation.done:
                break
        assert inflation.done
        assert decompress(body, encoding, 100) == bytes(inflation.raw)
    except FleetError:
        with pytest.raises(FleetError):
            decompress(body, encoding, 100)


async def test_nothing_is_made_that_was_not_counted_before() -> None:
    counted: list[int] = []

    raw = await Inflater().inflate(BOMB, "gzip", LIMIT, counted.append)

    assert len(raw) == 15_000_000
    assert counted[-1] == 15_000_000
    steps = counted[:-1]
    assert all(later - earlier <= STEP for earlier, later in itertools.pairwise(steps))
    assert steps[0] <= len(BOMB) + ON_LOOP + STEP


async def test_it_ends_where_there_is_no_room() -> None:
    made: list[int] = []

    def reserve(size: int) -> None:
        if size > 5_000_000:
            raise Exhausted("full")
        made.append(size)

    with pytest.raises(Exhausted):
        await Inflater().inflate(BOMB, "gzip", LIMIT, reserve)
    assert made[-1] <= 5_000_000


async def test_a_small_body_is_inflated_at_once_and_a_broken_one_says_so() -> None:
    counted: list[int] = []
    inflater = Inflater()

    assert await inflater.inflate(gzip.compress(b"abc"), "gzip", LIMIT, counted.append) == b"abc"
    assert counted == [3]
    with pytest.raises(CodecError):
        await inflater.inflate(b"abc", "gzip", LIMIT, counted.append)


async def bombs(gateway: Running, count: int, body: bytes) -> list[int]:
    answers = [gateway.infer(body, "any", content_encoding="gzip") for _ in range(count)]
    return [answer.status_code for answer in await asyncio.gather(*answers)]


async def test_a_hundred_small_bodies_that_become_large_stay_within_the_budget(fleet: Site) -> None:
    await fleet.worker(ANY)
    limit = 60_000_000
    gateway = await fleet.gateway(max_queued_bytes=limit, json_processes=1)
    whole = gateway.gateway.service.budgets.whole
    body = gzip.compress(b" " * 15_000_000 + orjson.dumps(floats(10)), compresslevel=9)
    assert len(body) < ON_LOOP
    most = 0
    done = asyncio.ensure_future(bombs(gateway, 100, body))
    while not done.done():
        most = max(most, whole.used)
        await gateway.get("/v2/health/live")

    statuses = await done
    assert set(statuses) <= {200, 429}
    assert 200 in statuses
    assert 429 in statuses
    assert 20_000_000 < most <= limit
    await until(lambda: gateway.metric("penstock_gateway_queued_bytes") == 0)
    assert (await gateway.infer(floats(10), "any")).status_code == 200


async def test_what_is_refused_is_freed_at_once_and_not_when_the_collector_comes(fleet: Site) -> None:
    await fleet.worker(ANY)
    limit = 40_000_000
    gateway = await fleet.gateway(max_queued_bytes=limit)
    body = gzip.compress(b" " * 15_000_000 + b"{", compresslevel=9)
    assert await bombs(gateway, 1, body) == [400]
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        statuses = await bombs(gateway, 40, body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()

    assert set(statuses) <= {400, 429}
    assert 429 in statuses  # two documents that are inflated in step leave each other no room to be parsed
    assert peak < 2.5 * limit


async def test_a_call_that_waits_holds_its_record_and_not_the_body_it_came_from(fleet: Site) -> None:
    worker = await fleet.worker(ANY)
    worker.open.clear()
    gateway = await fleet.gateway()
    body = gzip.compress(b" " * 15_000_000 + orjson.dumps(floats(10)), compresslevel=9)
    tracemalloc.start()
    try:
        calls = []
        for headers in ({}, {"idempotency_key": "a"}, {"idempotency_key": "a"}, {"idempotency_key": "b"}):
            call = gateway.infer(body, "any", content_encoding="gzip", penstock_timeout_ms="100000", **headers)
            calls.append(asyncio.ensure_future(call))
        await until(lambda: gateway.metric("penstock_gateway_inflight") == 4, 60)
        await until(lambda: not gateway.gateway._http._frontend.json._work)
        current, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    worker.open.set()

    assert {answer.status_code for answer in await asyncio.gather(*calls)} == {200}
    assert current < 8_000_000


async def test_a_deadline_holds_while_a_body_waits_to_be_inflated(fleet: Site) -> None:
    await fleet.worker(ANY)
    gateway = await fleet.gateway()
    turns = gateway.gateway._http._frontend._inflater._turns
    while not turns.locked():
        await turns.acquire()

    answer = await gateway.infer(BOMB, "any", content_encoding="gzip", penstock_timeout_ms="200")

    assert answer.status_code == 504
    assert gateway.metric("penstock_gateway_queued_bytes") == 0
