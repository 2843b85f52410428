import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.fleet import IDENTITY, until
from tests.workers.serving import bench
from workers.batching.types import Batch, Release
from workers.failures.hang_watch import HangWatch
from workers.failures.limits import MIN_TIME_LIMIT, TIME_LIMIT_FACTOR, time_limit
from workers.instances.job import Entry, Job
from workers.latency import LatencyModel

LIMITED = IDENTITY + 'parameters { key: "max_execution_ms" value { string_value: "50" } }'


class Killable:
    """The part of an executor that a watch uses."""

    def __init__(self, *, isolated: bool) -> None:
        self.name = "m_0_0"
        self.isolated = isolated
        self.kills = 0

    def kill(self) -> None:
        self.kills += 1


def job(executor: Killable, began: float) -> Job:
    entry = Entry("i", 2, "", None, 0.0)  # type: ignore[arg-type]  # nothing here looks at the request
    made = Job(Batch([entry], 2, Release.FULL, 0.0, 0), [entry], executor)  # type: ignore[arg-type]
    made.compute_start = began
    return made


async def test_a_batch_that_runs_too_long_has_its_process_killed() -> None:
    watch, executor = HangWatch(LatencyModel(), 3.0, lambda: 0.0), Killable(isolated=True)
    watch.begin(job(executor, 100.0))
    watch.check(103.0)
    assert executor.kills == 0
    watch.check(103.1)
    assert executor.kills == 1
    assert watch.stuck == set()
    watch.stop()


async def test_what_has_not_begun_or_has_come_back_does_not_hang() -> None:
    watch, executor = HangWatch(LatencyModel(), 3.0, lambda: 0.0), Killable(isolated=True)
    waits, back = job(executor, 0.0), job(executor, 100.0)
    watch.begin(waits)
    watch.begin(back)
    watch.end(back)
    watch.check(1e9)
    assert executor.kills == 0
    watch.stop()


async def test_on_a_thread_it_is_only_said() -> None:
    watch, executor = HangWatch(LatencyModel(), 3.0, lambda: 0.0), Killable(isolated=False)
    hangs = job(executor, 100.0)
    watch.begin(hangs)
    watch.check(104.0)
    watch.check(105.0)
    assert (executor.kills, watch.stuck) == (0, {hangs})
    watch.end(hangs)
    assert watch.stuck == set()
    watch.stop()


async def test_without_a_stated_limit_it_is_a_multiple_of_what_was_measured() -> None:
    latency = LatencyModel()
    watch, some = HangWatch(latency, None, lambda: 0.0), job(Killable(isolated=True), 100.0)
    assert watch.limit(some) == MIN_TIME_LIMIT
    latency.observe("", 2, 50.0)
    assert watch.limit(some) == 50.0 * TIME_LIMIT_FACTOR
    latency.observe("", 2, 5000.0)
    assert watch.limit(some) > 1000
    assert HangWatch(latency, math.inf, lambda: 0.0).limit(some) == math.inf


@pytest.mark.parametrize(("deadline", "runs"), [(None, 59.0), (130.0, 59.0), (400.0, 299.0)])
async def test_a_long_request_after_short_ones_is_not_taken_for_one_that_hangs(
    deadline: float | None, runs: float
) -> None:
    latency, executor = LatencyModel(), Killable(isolated=True)
    for _ in range(25):
        latency.observe("", 2, 0.01)
    watch, long = HangWatch(latency, None, lambda: 0.0), job(executor, 100.0)
    long.entries[0].deadline = deadline
    watch.begin(long)
    for seconds in (12.0, runs):
        watch.check(100.0 + seconds)
        assert executor.kills == 0
    watch.check(100.0 + runs + 2.0)
    assert executor.kills == 1
    watch.stop()


MAYBE = st.none() | st.floats(0, 1e6)


@given(predicted=MAYBE, deadline=MAYBE, stated=st.none() | st.floats(0.001, 1e6))
def test_no_limit_is_stricter_than_the_deadline_or_that_of_the_unknown_but_a_stated_one(
    predicted: float | None, deadline: float | None, stated: float | None
) -> None:
    limit = time_limit(stated, predicted, deadline)
    if stated is not None:
        assert limit == stated
    else:
        assert limit >= max(time_limit(None, None), deadline or 0.0, predicted or 0.0)


async def test_a_worker_with_a_hanging_thread_is_not_ready_until_it_goes_on() -> None:
    async with bench() as b:
        serving = await b.serve(LIMITED)
        (instance,) = b.instances
        instance.gate.clear()
        futures = await b.caller.publish(b.caller.request(1))
        await until(lambda: serving.runner.problem() == "instance m_0_0 hangs with a batch")
        instance.gate.set()
        await futures[0]
        assert serving.runner.problem() == ""


def test_predictions_come_from_the_nearest_size_that_was_measured() -> None:
    latency = LatencyModel()
    assert latency.predict("s", 4) is None
    latency.observe("s", 8, 0.8)
    assert latency.predict("s", 8) == pytest.approx(0.8)
    assert latency.predict("s", 2) == pytest.approx(0.8)  # at most as long as the larger one
    assert latency.predict("s", 32) == pytest.approx(3.2)
    latency.observe("s", 1, 0.3)
    assert latency.predict("s", 1) == pytest.approx(0.3)
    assert latency.predict("other", 1) is None
