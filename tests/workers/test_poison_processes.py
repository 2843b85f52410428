"""The cases of test_poison with real processes that die, from the record to the dead letter."""

import asyncio
import textwrap
import time
from pathlib import Path

from protocol.errors import Code
from protocol.messages import InferReply
from tests.workers.fleet import NAMES, Caller, fleet, until, values, write_model

CONFIG = """
backend: "python" max_batch_size: 32
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] } ]
dynamic_batching { preferred_batch_size: [ 32 ] max_queue_delay_microseconds: 200000 }
parameters { key: "max_execution_ms" value { string_value: "500" } }
"""
CODE = """
    import ctypes, signal

    class Model:
        def predict(self, X):
            if (X == 13).any():
                ctypes.string_at(0)
            if (X == 14).any():
                signal.pause()
            return {"Y": X + 1}
"""


async def timed(caller: Caller, numbers: list[float]) -> tuple[list[InferReply], list[float]]:
    """The answers to one batch, and how many seconds each took."""
    began = time.monotonic()
    taken = [0.0] * len(numbers)

    async def wait(index: int, future: asyncio.Future[InferReply]) -> InferReply:
        reply = await future
        taken[index] = time.monotonic() - began
        return reply

    futures = await caller.publish(*[caller.request(number) for number in numbers], partition=0)
    async with asyncio.timeout(60):
        replies = await asyncio.gather(*[wait(index, future) for index, future in enumerate(futures)])
    return replies, taken


async def test_one_crasher_among_32_and_one_that_hangs(tmp_path: Path) -> None:
    write_model(tmp_path, "m", CONFIG, {"model.py": textwrap.dedent(CODE)})
    async with fleet(tmp_path) as f:
        worker = await f.worker()
        caller = await f.caller()
        for _ in range(3):
            await caller.ask(*[caller.request(number) for number in range(100, 132)], partition=0)
        (serving,) = worker.models.serving()

        numbers = [float(number) for number in range(20, 51)]
        numbers.insert(20, 13.0)
        replies, taken = await timed(caller, numbers)
        assert [index for index, reply in enumerate(replies) if reply.failure is not None] == [20]
        assert values(replies[:20]) == [[number + 1] for number in numbers[:20]]
        failure = replies[20].failure
        assert failure is not None
        assert failure.code is Code.MODEL_FAILED
        assert "died with SIGSEGV" in failure.message
        innocent = max(taken[:20] + taken[21:])
        deaths = serving.statistics.deaths
        print(f"\n31 innocents answered after at most {innocent:.3f} s")
        print(f"the crasher after {taken[20]:.3f} s and {deaths} deaths")

        hangs, _ = await timed(caller, [1.0, 2.0, 14.0, 3.0])
        assert [index for index, reply in enumerate(hangs) if reply.failure is not None] == [2]

        bus = f.transports[0].bus
        found = [
            dict(record.headers)
            for offset in (0, 1)
            if (record := await bus.read_record(NAMES.dead_topic("m"), 0, offset))
        ]
        assert [headers["dead-reason"] for headers in found] == [b"poison", b"hung"]
        assert found[0]["dead-signal"] == b"SIGSEGV"
        assert found[0]["dead-batch"].count(b",") == 30
        assert found[0]["__connect.errors.exception.class.name"] == b"workers.execution.InstanceDied"
        await until(lambda: serving.runner.in_flight == 0)
        assert values(await caller.ask(caller.request(5.0), partition=0)) == [[6]]
