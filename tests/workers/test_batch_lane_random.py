"""Whatever happens to both lanes, every record is answered once with the rows that it had."""

import asyncio
import dataclasses
import itertools

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.errors import Code
from protocol.messages import InferRequest, Lane
from protocol.tensors import from_array
from tests.workers.fleet import BOUNDED, IDENTITY, ORDERED, until
from tests.workers.serving import Bench, bench

ACTIONS = [
    "rows",
    "rows",
    "rows",
    "publish",
    "publish",
    "claimed",
    "again",
    "cancel",
    "deadline",
    "hold",
    "release",
    "down",
    "up",
]
plans = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(1, 40), st.integers(0, 2)), min_size=1, max_size=25)
configs = st.sampled_from([IDENTITY, IDENTITY + "dynamic_batching { }", ORDERED, BOUNDED])


class Play:
    """Acts out a plan against a served model; every row of every request has a number of its own."""

    def __init__(self, b: Bench) -> None:
        self.bench = b
        self.numbers = itertools.count()
        self.requests: list[tuple[Lane, InferRequest]] = []
        self.repeated: set[str] = set()

    def request(self, rows: int, **fields: object) -> InferRequest:
        array = np.array([[next(self.numbers)] for _ in range(rows)], np.float32)
        request = self.bench.caller.request(0.0, **fields)
        return dataclasses.replace(request, inputs=(from_array("X", array),))

    async def send(self, lane: Lane, request: InferRequest, where: int) -> None:
        self.requests.append((lane, request))
        await self.bench.caller.publish(request, partition=where, lane=lane)

    async def act(self, action: str, count: int, where: int) -> None:
        b = self.bench
        if action in ("rows", "claimed", "deadline"):
            deadline = b.clock() + 0.001 * count if action == "deadline" else None
            await self.send(Lane.BATCH, self.request(count, claimed=action == "claimed", deadline=deadline), where)
        elif action == "publish":
            await self.send(Lane.INTERACTIVE, self.request(1 + count % 3), where)
        elif action == "again" and self.requests:
            lane, request = self.requests[-1]
            self.repeated.add(request.id)
            await b.caller.publish(request, partition=where, lane=lane)
        elif action == "cancel" and self.requests:
            lane, request = self.requests[-1]
            await b.caller.cancel(request, lane=lane)
        elif action in ("hold", "release"):
            gate = b.instances[where % len(b.instances)].gate
            gate.clear() if action == "hold" else gate.set()
        else:
            b.store.down = action == "down"

    async def end(self) -> None:
        """Let everything finish."""
        b, (serving,) = self.bench, self.bench.serving
        b.store.down = False
        for instance in b.instances:
            instance.gate.set()
        await until(lambda: len(b.caller.answers) == len(self.requests), "every answer")
        for lane, intake in ((serving.runner, serving.intake), (serving.batch_lane, serving.batch_intake)):
            await until(lambda n=lane, i=intake: n.in_flight == i._tracker.in_flight == 0, "every record")  # type: ignore[misc]

    def check(self) -> None:
        b, (serving,) = self.bench, self.bench.serving
        assert set(b.caller.counts.values()) <= {1}
        ran = [row for instance in b.instances for batch in instance.batches for row in batch]
        for _, request in self.requests:
            rows = request.inputs[0].array().ravel().tolist()
            reply = b.caller.answers[request.id]
            if reply.failure is None:
                assert reply.outputs[0].array().ravel().tolist() == rows
            else:
                assert reply.failure.code in (Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.EXHAUSTED)
            if request.id not in self.repeated:
                counts = {row: ran.count(row) for row in rows}
                assert set(counts.values()) <= ({1} if reply.failure is None else {0, 1}), "each row runs once"
        assert serving.runner.running_rows == serving.runner.queued_rows == serving.batch_lane.queued_rows == 0
        assert serving.batch_lane.out_rows == serving.batch_lane._memory.held == 0
        assert not serving.batch_lane._begun
        assert not serving.batch_lane._turns
        assert all(executor.held == 0 for executor in serving.loaded.executors)
        assert not any(serving.runner._pipeline._of_lane.values())


@given(plan=plans, config=configs, instances=st.integers(1, 2))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_happens_every_record_of_both_lanes_is_answered_once(
    plan: list[tuple[str, int, int]], config: str, instances: int
) -> None:
    """Random arrivals, repetitions, cancellations, deadlines, store failures and slow instances."""

    async def play() -> None:
        async with bench() as b:
            await b.serve(config, instances=instances, partitions=3)
            acted = Play(b)
            for step in plan:
                await acted.act(*step)
                await asyncio.sleep(0)
            await acted.end()
            acted.check()

    asyncio.run(play())
