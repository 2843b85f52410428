"""Whatever happens to a runner, every request is answered once."""

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.messages import InferRequest
from tests.workers.fleet import BOUNDED, DELAYED, IDENTITY, IMPATIENT, ORDERED, turn_of_the_loop, until
from tests.workers.serving import Bench, bench

ACTIONS = ["publish", "publish", "claimed", "again", "cancel", "deadline", "hold", "release", "down", "up"]
plans = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(1, 9), st.integers(0, 2)), min_size=1, max_size=25)
configs = st.sampled_from([IDENTITY, ORDERED, DELAYED.replace("60000000", "2000"), BOUNDED, IMPATIENT])


class Play:
    """Acts out a plan against a served model, and knows the required result."""

    def __init__(self, b: Bench) -> None:
        self.bench = b
        self.requests: list[InferRequest] = []
        self.repeated: set[str] = set()

    async def act(self, action: str, count: int, where: int) -> None:
        b = self.bench
        if action in ("publish", "claimed", "deadline"):
            deadline = b.clock() + 0.002 * count if action == "deadline" else None
            numbers = range(len(self.requests), len(self.requests) + count)
            fresh = [b.caller.request(n, claimed=action == "claimed", deadline=deadline) for n in numbers]
            self.requests += fresh
            await b.caller.publish(*fresh, partition=where)
        elif action == "again" and self.requests:
            self.repeated.update(request.id for request in self.requests[-count:])
            await b.caller.publish(*self.requests[-count:], partition=where)
        elif action == "cancel" and self.requests:
            await b.caller.cancel(*self.requests[-count:])
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
        await until(lambda: serving.runner.in_flight == 0 and serving.intake._tracker.in_flight == 0, "every record")

    def check(self) -> None:
        b, (serving,) = self.bench, self.bench.serving
        assert set(b.caller.counts.values()) <= {1}
        ran = [int(row) for instance in b.instances for batch in instance.batches for row in batch]
        once = [number for number in ran if self.requests[number].id not in self.repeated]
        assert len(once) == len(set(once)), "a request that was published once ran twice"
        for number, request in enumerate(self.requests):
            reply = b.caller.answers[request.id]
            if reply.failure is None:
                assert reply.outputs[0].array().tolist() == [[number]]
                assert number in ran
            elif request.id not in self.repeated:
                assert number not in ran
        assert serving.runner.running_rows == serving.runner.queued_rows == 0
        assert all(executor.held == 0 for executor in serving.loaded.executors)


@given(plan=plans, config=configs, instances=st.integers(1, 2))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_happens_every_request_is_answered_once_and_every_record_is_done(
    plan: list[tuple[str, int, int]], config: str, instances: int
) -> None:
    """Random arrivals, repetitions, cancellations, deadlines, store failures and slow instances."""

    async def play() -> None:
        async with bench() as b:
            await b.serve(config, instances=instances, partitions=3)
            acted = Play(b)
            for step in plan:
                await acted.act(*step)
                await turn_of_the_loop()
            await acted.end()
            acted.check()

    asyncio.run(play())
