"""Who waits for whom, and how long: both lanes on instances that take a virtual time for each batch."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.messages import Lane, Timing
from protocol.model_config.pbtxt import parse
from tests.simulation.loop import VirtualLoop
from tests.workers.fleet import IDENTITY
from tests.workers.serving import Bench
from workers.backends.identity import IdentityInstance
from workers.batching.lanes import AGED, LARGEST_SHARE, LaneSettings
from workers.batching.run_times import FORGOTTEN, RETRY, TRIES
from workers.instances.executor import ThreadExecutor
from workers.instances.job import Completed, Job
from workers.instances.loaded import LoadedModel
from workers.repository.completion import complete
from workers.repository.version import ModelVersion
from workers.serving.memory import QueueMemory
from workers.serving.serving import Serving

BATCHING = IDENTITY + "dynamic_batching { }"
DELAYED = IDENTITY + "dynamic_batching { max_queue_delay_microseconds: 5000 }"
LEVELS = IDENTITY + "dynamic_batching { priority_levels: 2 default_priority_level: 2 }"
LONGEST = 0.02
EPSILON = 1e-9

Cost = Callable[[int], float]


@dataclasses.dataclass(slots=True)
class Run:
    """One batch on one instance."""

    start: float
    end: float
    job: Job
    of_lane: bool
    interactive_rows: int
    rows: int


class Timed(ThreadExecutor):
    """Runs at once, and comes back after the time that the model would need."""

    def __init__(self, name: str, clock: Callable[[], float], cost: Cost) -> None:  # without a thread
        self.name = name
        self.held = 0
        self.loop_safe = False
        self.journal_slot = None
        self.runs: list[Run] = []
        self._clock = clock
        self._cost = cost
        self._keep = lambda raw: raw
        self._completed: Completed | None = None
        self._jobs: collections.deque[Job] = collections.deque()
        self._running = False

    def submit(self, job: Job) -> None:
        self._jobs.append(job)
        if not self._running:
            self._next()

    def _next(self) -> None:
        if not self._jobs:
            return
        job = self._jobs.popleft()
        self._running = True
        self._run(job)
        now, rows = self._clock(), job.batch.rows
        own = sum(entry.rows for entry in job.entries if not entry.sliced)
        self.runs.append(Run(now, now + self._cost(rows), job, own == 0, own, rows))
        asyncio.get_running_loop().call_later(self._cost(rows), self._over, job)

    def _over(self, job: Job) -> None:
        self._running = False
        job.compute_end = self._clock()
        assert self._completed is not None
        self._completed.push(job)
        self._next()

    async def close(self) -> None:
        pass


class Times(Bench):
    """A bench on virtual time."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self.clock = loop.time  # type: ignore[assignment]
        self.executors: list[Timed] = []

    async def serve_timed(
        self, cost: Cost, *, config: str = BATCHING, instances: int = 1, share: float = 0.0
    ) -> Serving:
        complete_config = complete(parse(config, "config.pbtxt", "m"), None)
        version = ModelVersion("m", 1, Path("/nowhere"), Path("/nowhere"), complete_config, "digest")
        for number in range(instances):
            executor = Timed(f"m_0_{number}", self.clock, cost)
            executor._instance = IdentityInstance(complete_config, 0.0)
            self.executors.append(executor)
        loaded = LoadedModel(version, self.executors, 0.0)
        serving = Serving(self.context(), loaded, QueueMemory(2**30), LaneSettings(LONGEST, share))
        self.serving.append(serving)
        await self.bus.ensure_topic(serving.topic, 1)
        await serving.open()
        return serving

    async def at(self, when: float, lane: Lane, rows: int) -> Timing:
        """Publish a request then, and wait for its answer; says when it ran."""
        await asyncio.sleep(when - self.clock())
        request = self.caller.rows(rows, published=self.clock())
        (future,) = await self.caller.publish(request, lane=lane)
        reply = await future
        assert reply.failure is None
        assert reply.outputs[0].shape == (rows, 1)
        return reply.timing

    def runs(self) -> list[Run]:
        return sorted(itertools.chain.from_iterable(e.runs for e in self.executors), key=lambda run: run.start)

    def lane_time_before(self, executor: Timed, run: Run) -> float:
        """Seconds of the lane's batches on its instance between the arrival of the batch's newest request and its start."""
        newest = max(entry.enqueued for entry in run.job.entries if not entry.sliced)
        others = [r for r in executor.runs if r.of_lane]
        return sum(max(0.0, min(r.end, run.start) - max(r.start, newest)) for r in others)

    def turns_before(self, run: Run, share: float, longest: float) -> float:
        """Seconds of turns that the lane may have had while the batch's newest request waited behind interactive batches: what it
        had earned before, and its share of these."""
        if share == 0.0:
            return 0.0
        newest = max(entry.enqueued for entry in run.job.entries if not entry.sliced)
        aged = share + (max(share, LARGEST_SHARE) - share) * min(1.0, run.start / AGED)
        others = [r for r in self.runs() if not r.of_lane]
        waited = sum(max(0.0, min(r.end, run.start) - max(r.start, newest)) for r in others)
        return 2.0 * longest + waited * aged / (1.0 - aged) if waited else 0.0


def virtual(play: Callable[[Times], Coroutine[None, None, None]]) -> Times:
    loop = VirtualLoop(max_steps=2_000_000)
    asyncio.set_event_loop(loop)
    b = Times(loop)

    async def whole() -> None:
        await b.open()
        await play(b)
        await b.close()

    try:
        loop.run_until_complete(whole())
        assert loop.errors == []
    finally:
        loop.close()
        asyncio.set_event_loop(None)
    return b


def flat(seconds: float) -> Cost:
    return lambda rows: seconds


def linear(seconds: float) -> Cost:
    return lambda rows: seconds * rows


arrivals = st.lists(
    st.tuples(st.floats(0.0, 0.5), st.sampled_from([Lane.INTERACTIVE, Lane.BATCH]), st.integers(1, 60)),
    min_size=1,
    max_size=60,
)
costs = st.one_of(
    st.floats(0.0001, 0.05).map(flat),
    st.floats(0.0001, 0.02).map(linear),
    st.tuples(st.floats(0.0001, 0.01), st.floats(0.0001, 0.005)).map(lambda two: lambda rows: two[0] + two[1] * rows),
)


@given(
    arrivals,
    costs,
    st.sampled_from([BATCHING, DELAYED, LEVELS, IDENTITY]),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.05, 0.5]),
)
@settings(deadline=None, max_examples=60)
def test_an_interactive_batch_waits_for_one_batch_of_the_lane_at_most(
    arriving: list[tuple[float, Lane, int]], cost: Cost, config: str, instances: int, share: float
) -> None:
    async def play(b: Times) -> None:
        await b.serve_timed(cost, config=config, instances=instances, share=share)
        calls = [b.at(at, lane, rows if lane is Lane.BATCH else 1 + rows % 8) for at, lane, rows in arriving]
        await asyncio.gather(*calls)

    b = virtual(play)
    assert sum(run.rows - run.interactive_rows for run in b.runs()) == sum(
        rows for _, lane, rows in arriving if lane is Lane.BATCH
    ), "rows run once"
    bound = max(LONGEST, 1.05 * cost(1)) + EPSILON
    late = [run for run in b.runs() if run.of_lane and run.end - run.start > bound]
    end = max(run.end for run in b.runs())
    tries = TRIES + math.floor(math.log2(1.0 + end / RETRY)) + math.floor(end / FORGOTTEN)
    assert len(late) <= instances * tries, (
        "a few runs tell, or as many as begin before they have ended, until it is tried again"
    )
    assert all(run.end - run.start <= 2 * bound for run in late)
    for executor in b.executors:
        for run in executor.runs:
            if not run.of_lane:
                learning = sum(r.end - r.start for r in late if r in executor.runs and r.start < run.start)
                assert b.lane_time_before(executor, run) <= max(bound, learning) + b.turns_before(run, share, bound)


@given(arrivals, costs, st.integers(1, 2))
@settings(deadline=None, max_examples=40)
def test_a_topped_up_batch_runs_as_long_as_it_would_alone(
    arriving: list[tuple[float, Lane, int]], cost: Cost, instances: int
) -> None:
    async def play(b: Times) -> None:
        await b.serve_timed(cost, instances=instances)
        calls = [b.at(at, lane, rows if lane is Lane.BATCH else 1 + rows % 8) for at, lane, rows in arriving]
        await asyncio.gather(*calls)

    for run in virtual(play).runs():
        if run.interactive_rows and run.rows > run.interactive_rows:
            alone = cost(run.interactive_rows)
            assert cost(run.rows) <= alone + max(0.05 * alone, 0.00005) + EPSILON


@pytest.mark.parametrize("instances", [1, 2])
@pytest.mark.parametrize("cost", [flat(0.004), flat(0.015), linear(0.002)])
def test_with_a_backlog_and_nobody_else_no_instance_is_ever_idle(cost: Cost, instances: int) -> None:
    async def play(b: Times) -> None:
        await b.serve_timed(cost, instances=instances)
        await asyncio.gather(*[b.at(0.0, Lane.BATCH, 100) for _ in range(20)])

    b = virtual(play)
    for executor in b.executors:
        for before, after in itertools.pairwise(executor.runs):
            assert after.start == pytest.approx(before.end)
    ends = [executor.runs[-1].end for executor in b.executors]
    assert max(ends) - min(ends) <= LONGEST


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.0), (0.05, 0.05), (0.3, 0.3)])
@pytest.mark.parametrize("instances", [1, 2])
def test_busy_instances_give_the_lane_its_share(share: float, expected: float, instances: int) -> None:
    async def play(b: Times) -> None:
        serving = await b.serve_timed(linear(0.0024), instances=instances, share=share)
        for rows in (1, 2, 4, 8):
            serving.batch_lane._planner.observe("1", rows, 0.0024 * rows, 0.0)
        loop = asyncio.get_running_loop()
        backlog = loop.create_task(b.at(0.001, Lane.BATCH, 3000))
        interactive = [b.at(0.0, Lane.INTERACTIVE, 8) for _ in range(300 * instances)]
        await asyncio.gather(*interactive)
        backlog.cancel()

    b = virtual(play)
    end = max(run.end for run in b.runs() if not run.of_lane)
    of_lane = sum(run.end - run.start for run in b.runs() if run.of_lane and run.end <= end)
    assert of_lane == pytest.approx(expected * end * instances, abs=2 * LONGEST + 0.02 * end * bool(share))


def test_nothing_starves_while_the_lane_has_a_share() -> None:
    """The largest share comes with age, however small it was to begin with."""
    waited: list[float] = []

    async def play(b: Times) -> None:
        await b.serve_timed(flat(0.5), share=0.001)
        stop = asyncio.Event()

        async def caller() -> None:
            while not stop.is_set():
                await b.at(b.clock(), Lane.INTERACTIVE, 8)

        callers = [asyncio.ensure_future(caller()) for _ in range(8)]
        await b.at(5.0, Lane.BATCH, 1)
        waited.append(b.clock() - 5.0)
        stop.set()
        await asyncio.gather(*callers)

    virtual(play)
    assert waited[0] < 120.0


@given(arrivals, costs, st.integers(1, 3), st.sampled_from([0.0, 0.05, 0.5]))
@settings(deadline=None, max_examples=40)
def test_a_record_was_in_the_model_as_long_as_its_batches_ran(
    arriving: list[tuple[float, Lane, int]], cost: Cost, instances: int, share: float
) -> None:
    """What lies between them, interactive batches above all, is waiting."""
    told: list[Timing] = []

    async def play(b: Times) -> None:
        await b.serve_timed(cost, instances=instances, share=share)

        async def record(at: float, rows: int) -> None:
            told.append(await b.at(at, Lane.BATCH, rows))

        interactive = [b.at(at, lane, 1 + rows % 8) for at, lane, rows in arriving if lane is Lane.INTERACTIVE]
        await asyncio.gather(record(0.01, 60), *interactive)

    b = virtual(play)
    (timing,) = told
    runs = [(run.start, run.end) for run in b.runs() if run.rows > run.interactive_rows]
    assert sum(run.rows - run.interactive_rows for run in b.runs()) == 60
    ran = timing.computed or timing.compute_end - timing.compute_start
    assert (timing.compute_start, timing.compute_end) == (min(runs)[0], max(end for _, end in runs))
    assert ran <= sum(end - start for start, end in runs) + EPSILON
    if instances == 1:
        assert ran == pytest.approx(sum(end - start for start, end in runs))
    steps = sorted({edge for run in runs for edge in run})
    busy = [(a, z) for a, z in itertools.pairwise(steps) if any(start <= a and z <= end for start, end in runs)]
    assert ran == pytest.approx(sum(z - a for a, z in busy))
