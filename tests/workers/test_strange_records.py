"""Any field of a record may hold anything: its record is still settled, and its neighbours are answered."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import numpy as np
import pytest

from protocol.codec import MAX_NUMBER, encode_request
from protocol.errors import Code
from protocol.messages import InferRequest
from protocol.ports import OutRecord
from protocol.tensors import from_array
from tests.workers.fleet import CHANNEL, NAMES, ORDERED, until, values
from tests.workers.serving import Bench, bench
from workers.instances.job import Entry

TOPIC = NAMES.infer_topic("m", "1")
DEAD = NAMES.dead_topic("m")
GOOD = encode_request(InferRequest("r", "m", "1", (from_array("X", np.array([[1.0, 2.0]], np.float32)),)))[0]
NAMES_OF_HEADERS = (
    "id", "principal", "reply-to", "deadline", "priority", "timeout", "traceparent", "claimed", "stamps", "schema",
    "content-type", "x", "",
)  # fmt: skip


async def send(b: Bench, *records: OutRecord) -> None:
    await b.broker.append(b.broker.topic(TOPIC), 0, records)


async def everything_is_done(b: Bench, count: int) -> None:
    await until(lambda: b.broker.topics[TOPIC].groups[TOPIC].committed.get(0, 0) == count, "the commit of everything")


@pytest.mark.parametrize("value", [GOOD, b"\xc1 no request", b""])
async def test_a_null_header_value_holds_up_nothing(value: bytes) -> None:
    async with bench() as b:
        serving = await b.serve()
        await send(b, *[OutRecord(value, [(name, None)]) for name in NAMES_OF_HEADERS])
        assert values(await b.caller.ask(b.caller.request(7.0))) == [[7.0]]
        await everything_is_done(b, len(NAMES_OF_HEADERS) + 1)
        given_up = 0 if value == GOOD else len(NAMES_OF_HEADERS)
        assert serving.statistics.dead_letters["undecodable"] == given_up
        assert serving.statistics.success.count == 1 + len(NAMES_OF_HEADERS) - given_up


async def test_a_dead_letter_keeps_a_null_header_as_null() -> None:
    async with bench() as b:
        await b.serve()
        await send(b, OutRecord(b"\xc1", [("id", None), ("x", b"")], None))
        await everything_is_done(b, 1)
        record = await b.bus.read_record(DEAD, 0, 0)
        assert record is not None
        assert list(record.headers[:2]) == [("id", None), ("x", b"")]


@pytest.mark.parametrize("config", ["", ORDERED])
@pytest.mark.parametrize(
    ("stamps", "timestamp"),
    [((2**64 - 1, 2**64 - 1), 1.0), ((0, 2**63), 1.0), (None, 1.7e15), (None, 9.2e15), (None, -0.001)],
)
async def test_a_time_that_cannot_be_leaves_nobody_else_unanswered(
    config: str, stamps: tuple[int, int] | None, timestamp: float
) -> None:
    async with bench() as b:
        serving = await (b.serve(config) if config else b.serve())
        first = await b.hold()
        headers = [("id", b"odd"), ("reply-to", CHANNEL.encode())]
        if stamps is not None:
            headers.append(("stamps", struct.pack(">QQ", *stamps)))
        future = asyncio.get_running_loop().create_future()
        b.caller._waiting["odd"] = future
        good = await b.caller.publish(*[b.caller.request(n) for n in range(3)])
        await send(b, OutRecord(GOOD, headers, timestamp=timestamp))
        good += await b.caller.publish(*[b.caller.request(n) for n in range(3, 6)])
        await until(lambda: serving.runner.in_flight == 8)
        b.instances[0].gate.set()
        async with asyncio.timeout(10):
            replies = await asyncio.gather(*first, *good, future)
        assert values(replies) == [[0], [0], [1], [2], [3], [4], [5], [1, 2]]
        assert 0 <= replies[-1].timing.accepted <= MAX_NUMBER / 1e6
        await everything_is_done(b, 8)


@pytest.mark.parametrize("name", ["deadline", "priority", "timeout"])
async def test_a_number_over_the_limit_is_told_to_its_sender(name: str) -> None:
    async with bench() as b:
        serving = await b.serve()
        future = asyncio.get_running_loop().create_future()
        b.caller._waiting["mine"] = future
        headers = [("id", b"mine"), ("reply-to", CHANNEL.encode()), (name, b"%d" % (MAX_NUMBER + 1))]
        await send(b, OutRecord(GOOD, headers))
        async with asyncio.timeout(10):
            reply = await future
        assert reply.failure is not None
        assert reply.failure.code is Code.INVALID_ARGUMENT
        assert f"at most {MAX_NUMBER}" in reply.failure.message
        assert serving.statistics.dead_letters["undecodable"] == 1
        await everything_is_done(b, 1)


async def test_a_defect_in_handling_one_record_ends_that_record_and_no_other() -> None:
    async with bench() as b:
        serving = await b.serve()
        right = serving.runner.add

        def add(entry: Entry) -> None:
            if entry.payload.id == "odd":
                raise KeyError("a defect of ours")
            right(entry)

        serving.runner.add = add  # type: ignore[method-assign]
        odd = b.caller.request(9, id="odd")
        replies = await b.caller.ask(b.caller.request(1), odd, b.caller.request(2), partition=0)
        assert values([replies[0], replies[2]]) == [[1], [2]]
        assert replies[1].failure is not None
        assert replies[1].failure.code is Code.INTERNAL
        await everything_is_done(b, 3)
        assert serving.statistics.dead_letters["defect"] == 1
        record = await b.bus.read_record(DEAD, 0, 0)
        assert record is not None
        assert b"a defect of ours" in (dict(record.headers)["dead-error"] or b"")


async def test_a_defect_before_a_batch_runs_leaves_nobody_unanswered() -> None:
    async with bench() as b:
        serving = await b.serve()
        first = await b.hold()
        right = b.store.start

        async def start(refs: Any, worker: str, ttl: float) -> list[int]:
            return [] if "odd" in refs else await right(refs, worker, ttl)

        b.store.start = start  # type: ignore[method-assign]
        odd = b.caller.request(9, id="odd", claimed=True)
        futures = await b.caller.publish(b.caller.request(1), odd, b.caller.request(2, claimed=True))
        await until(lambda: serving.runner.in_flight == 4)
        b.instances[0].gate.set()
        async with asyncio.timeout(10):
            replies = await asyncio.gather(*first, *futures)
        assert values([replies[0], replies[1], replies[3]]) == [[0], [1], [2]]
        assert replies[2].failure is not None
        assert serving.runner.running_rows == 0
        await everything_is_done(b, 4)
        assert values(await b.caller.ask(b.caller.request(5))) == [[5]]


async def test_a_look_up_that_goes_wrong_loses_no_record() -> None:
    async with bench() as b:
        await b.serve(worker="w1")
        await b.caller.ask(b.caller.request(0))
        b.serving[0].abandon()
        futures = await b.caller.publish(*[b.caller.request(n) for n in range(1, 4)])
        await b.bus.evict(TOPIC, ["w1"])

        async def look(refs: Any) -> list[Any]:
            return []

        b.store.look = look  # type: ignore[method-assign]
        await b.serve(worker="w2")
        async with asyncio.timeout(10):
            assert values(await asyncio.gather(*futures)) == [[1], [2], [3]]
        await everything_is_done(b, 4)


async def test_a_letter_that_cannot_be_written_as_it_is_leaves_the_evidence() -> None:
    async with bench() as b:
        await b.serve()
        right = b.bus.publish

        async def publish(topic: str, records: Any, partition: int | None = None) -> Any:
            if topic == DEAD and any(record.value for record in records):
                raise UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed")
            return await right(topic, records, partition)

        b.bus.publish = publish  # type: ignore[method-assign]
        await send(b, OutRecord(b"\xc1", [("id", b"\xff")]), OutRecord(b"\xc1", []))
        await everything_is_done(b, 2)
        letters = [await b.bus.read_record(DEAD, 0, offset) for offset in range(2)]
        assert [dict(letter.headers)["dead-offset"] for letter in letters if letter] == [b"0", b"1"]
        assert all(letter and "dead-left-out" in dict(letter.headers) for letter in letters)


async def test_an_end_of_a_record_that_itself_goes_wrong_is_an_end() -> None:
    async with bench() as b:
        serving = await b.serve()
        decoder = serving.intake._decoder

        def sender_of(*arguments: Any) -> Entry | None:
            raise ValueError("a defect of ours")

        decoder.sender_of = sender_of  # type: ignore[method-assign]
        await send(b, OutRecord(b"\xc1", []), OutRecord(b"\xc1", []))
        await everything_is_done(b, 2)
        assert serving.statistics.dead_letters["undecodable"] == 2
