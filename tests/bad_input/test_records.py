"""Hostile records in the log: every one gets an error or a dead letter, none stops its partition, and nothing grows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import msgpack
import numpy as np

from protocol.answers import decode_answer
from protocol.codec import encode_request
from protocol.messages import InferRequest
from protocol.ports import OutRecord
from protocol.tensors import from_array
from tests.bad_input.hostile import DEEP, mutated
from tests.workers.fleet import CHANNEL, NAMES, until, values
from tests.workers.serving import Bench, bench

TOPIC = NAMES.infer_topic("m", "1")
DEAD = NAMES.dead_topic("m")
JSON = ("content-type", b"application/json")
GOOD = encode_request(InferRequest("r", "m", "1", (from_array("X", np.array([[1.0, 2.0]], np.float32)),)))[0]


def nested(depth: int) -> bytes:
    """msgpack arrays in arrays."""
    return b"\x91" * depth + b"\xc0"


HOSTILE: list[tuple[bytes, list[tuple[str, bytes]]]] = [
    (b"", []),
    (b"\xc1", []),
    (nested(100_000), []),
    (b"\x92\xc6\xff\xff\xff\xff", []),  # claims a head of 4 GB
    (b"\xdd\xff\xff\xff\xff", []),  # an array of 4 billion
    (b"\xdf\xff\xff\xff\xff", []),  # a map of 4 billion
    (msgpack.packb({"inputs": [{"name": "X", "datatype": "FP32", "shape": [2**62, 4], "size": 8}]}), []),
    (msgpack.packb({"inputs": [{"name": "X", "datatype": "FP32", "shape": [-1], "data": b""}]}), []),
    (msgpack.packb({"inputs": [{"name": "X", "datatype": "BYTES", "shape": [1, 1], "data": b"\xff\xff\xff\xff"}]}), []),
    (msgpack.packb({"inputs": [{"name": "X" * 100_000, "datatype": "FP32", "shape": [1], "data": b"1234"}]}), []),
    (msgpack.packb({"inputs": {}}), []),
    (msgpack.packb(msgpack.ExtType(5, b"x" * 50)), []),
    (DEEP, [JSON]),
    (b'{"inputs":[{"name":"\xff"}]}', [JSON]),
    (b"[" * 2000, [JSON]),
    (b'{"inputs":[{"name":"X","datatype":"FP32","shape":[1,1],"data":[1e999]}]}', [JSON]),
    (GOOD, [("schema", b"penstock/99")]),
    (GOOD, [("deadline", b"\xff\xff")]),
    (GOOD, [("deadline", b"9" * 400)]),
    (GOOD, [("priority", b"-1")]),
    (GOOD, [("stamps", b"1")]),
    (GOOD, [("id", b"\xff\xfe")]),
    (GOOD, [("id", b"i" * 100_000)]),
    (GOOD, [("principal", b"p" * 100_000)]),
    (GOOD, [("reply-to", b"somebody:else")]),
    (GOOD, [("content-type", b"application/x-python-pickle")]),
]


async def send(b: Bench, records: Sequence[tuple[bytes, list[tuple[str, bytes]]]]) -> None:
    await b.caller.transport.bus.publish(TOPIC, [OutRecord(value, headers) for value, headers in records], 0)


def committed(b: Bench) -> int:
    return b.broker.topics[TOPIC].groups[TOPIC].committed.get(0, 0)


async def test_none_holds_up_its_partition() -> None:
    async with bench() as b:
        serving = await b.serve()
        await send(b, HOSTILE)
        assert values(await b.caller.ask(b.caller.request(7.0))) == [[7.0]]
        await until(lambda: committed(b) == len(HOSTILE) + 1, "the commit of everything")
        assert serving.runner.in_flight == 0
        assert serving.intake._tracker.in_flight == 0
        assert serving.intake.problem == ""


async def test_what_is_no_request_is_in_the_dead_letters_byte_for_byte() -> None:
    async with bench() as b:
        await b.serve()
        await send(b, HOSTILE)
        await until(lambda: committed(b) == len(HOSTILE), "the commit of everything")
        log = b.broker.topics[DEAD].logs[0]
        given_up = {int(dict(record.headers)["dead-offset"]): bytes(record.value) for record in log.slice(0, 1000)}
        assert len(given_up) >= 15
        for offset, value in given_up.items():
            assert value == HOSTILE[offset][0]


async def test_whoever_named_himself_is_told() -> None:
    async with bench() as b:
        await b.serve()
        bad = [
            (value, [*headers, ("id", b"t%d" % n), ("reply-to", CHANNEL.encode())])
            for n, (value, headers) in enumerate(HOSTILE[:20])
        ]
        await send(b, bad)
        await until(lambda: committed(b) == len(bad), "the commit of everything")
        await until(lambda: len(b.caller.answers) == len(bad), "an answer to each")
        for reply in b.caller.answers.values():
            assert reply.failure is None or len(reply.failure.message) < 2000


async def test_whoever_named_a_topic_is_told_there() -> None:
    async with bench() as b:
        await b.serve()
        reply_to = ("reply-to", NAMES.reply_to_topic("job").encode())
        bad = [(value, [*headers, ("id", b"t%d" % n), reply_to]) for n, (value, headers) in enumerate(HOSTILE)]
        await send(b, bad)
        await until(lambda: committed(b) == len(bad), "the commit of everything")
        log = b.broker.topics[NAMES.results_topic("job")].logs[0]
        replies = dict(decode_answer(record) for record in log.slice(0, 1000))
        nameless = {f"t{n}" for n, (_, headers) in enumerate(HOSTILE) if dict(headers).get("principal")}
        assert set(replies) == {f"t{n}" for n in range(len(bad))} - nameless
        refused = [reply.failure for reply in replies.values() if reply.failure is not None]
        assert len(refused) > 18
        assert all(len(failure.message) < 2000 for failure in refused)


async def test_nothing_grows_under_garbage() -> None:
    """A thousand records of noise: the worker keeps nothing of them."""
    async with bench() as b:
        serving = await b.serve()
        dice = random.Random(1)
        for _ in range(10):
            await send(b, [(mutated([GOOD], dice), []) for _ in range(100)])
        await until(lambda: committed(b) == 1000, "the commit of everything")
        runner, intake = serving.runner, serving.intake
        assert (runner.in_flight, runner.queued_rows, runner.running_rows) == (0, 0, 0)
        assert (len(runner._withheld), runner._writer.pending, len(intake._cancellations)) == (0, 0, 0)
        assert intake._tracker.in_flight == 0
        await until(lambda: not [task for task in intake._background if task.done()])
        assert len(intake._background) == 1  # the poll
        assert b.broker.topics[TOPIC].logs[0].size == 0
        assert values(await asyncio.wait_for(b.caller.ask(b.caller.request(7.0)), 10)) == [[7.0]]
