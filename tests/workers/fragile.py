"""A model whose instance dies, hangs, fails or runs out of memory as its input says, and the resulting dead letters."""

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np

from protocol.messages import InferReply
from protocol.ports import Record
from protocol.tensors import Array
from tests.workers.fleet import IDENTITY, NAMES, until
from tests.workers.serving import Bench, Gated
from workers.instances.job import InstanceDied

WIDE = IDENTITY.replace("max_batch_size: 8", "max_batch_size: 32")
ORDERED = WIDE + "dynamic_batching { preserve_ordering: true }"
TOPIC = NAMES.infer_topic("m", "1")
DEAD = NAMES.dead_topic("m")


class Fragile(Gated):
    """Dies of some values, fails on others, and cannot hold many rows.

    Attributes:
        deadly, bad, nan: values that kill it, that make it raise, that make it return NaN.
        fits: rows that its memory is enough for.
        hung: its deaths count as hangs.
        lives: how often it can die.
        holds: the next death closes the gate.
    """

    deadly: frozenset[float] = frozenset()
    bad: frozenset[float] = frozenset()
    nan: frozenset[float] = frozenset()
    fits = 10_000
    hung = False
    lives = 10_000
    holds = False

    def compute(self, inputs: dict[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        made = super().compute(inputs, outputs)
        there = set(self.batches[-1])
        if there & self.deadly and self.lives > 0:
            self.lives -= 1
            if self.holds:
                self.holds = False
                self.gate.clear()
            raise InstanceDied("instance 'm_0_0' died, says the test", signal=11, hung=self.hung)
        if there & self.bad:
            raise ValueError(f"these are bad: {sorted(there & self.bad)}")
        if len(self.batches[-1]) > self.fits:
            raise MemoryError("no room for so many rows")
        return {"Y": np.where(np.isin(made["Y"], list(self.nan)), np.float32("nan"), made["Y"])}


async def fragile(b: Bench, config: str = WIDE, *, isolated: bool = True, **fields: object) -> Fragile:
    """A served model on one fragile instance."""
    serving = await b.serve(config, kind=Fragile)
    instance = b.instances[-1]
    assert isinstance(instance, Fragile)
    for name, value in fields.items():
        setattr(instance, name, value)
    serving.loaded.executors[0].isolated = isolated
    return instance


async def together(b: Bench, *numbers: float) -> list[InferReply]:
    """The answers to requests that were in one batch."""
    instance = b.instances[-1]
    instance.gate.clear()
    first = await b.caller.publish(b.caller.request(-1))
    await instance.started()
    futures = await b.caller.publish(*[b.caller.request(number) for number in numbers])
    await until(lambda: b.serving[-1].runner.in_flight == 1 + len(numbers))
    instance.gate.set()
    async with asyncio.timeout(20):
        return (await asyncio.gather(*first, *futures))[1:]


async def dead_letters(b: Bench) -> list[Record]:
    found: list[Record] = []
    while (record := await b.bus.read_record(DEAD, 0, len(found))) is not None:
        found.append(record)
    return found


def failed(replies: Sequence[InferReply]) -> list[int]:
    return [index for index, reply in enumerate(replies) if reply.failure is not None]


async def all_done(b: Bench) -> None:
    """Nothing is left, and everything is committed."""
    serving = b.serving[-1]
    await until(lambda: serving.runner.in_flight == 0 and serving.intake._tracker.in_flight == 0)
    assert serving.runner.running_rows == serving.runner.queued_rows == 0
    assert [executor.held for executor in serving.loaded.executors] == [0] * len(serving.loaded.executors)
    await serving.intake._commits.flush()
    assert await serving.intake.lag() == 0
