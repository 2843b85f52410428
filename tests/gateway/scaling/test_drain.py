"""When a backlog is drained, and how many workers drain it in time."""

from __future__ import annotations

import dataclasses
import math

from hypothesis import given
from hypothesis import strategies as st

from gateway.scaling.drain import UTILISATION, Demand, time_to_drain, workers_needed

rows = st.integers(0, 10**9)
rates = st.floats(0, 1e7)
speeds = st.floats(0.01, 1e7)
seconds = st.floats(0, 3600)
targets = st.floats(0.1, 3600)
demands = st.builds(Demand, rows, rows, rates, st.floats(-1e6, 1e6), speeds, st.just(True))


def test_time_to_drain() -> None:
    assert time_to_drain(0, 0.0, 0.0, 60.0) == 0.0
    assert time_to_drain(100, 50.0, 25.0, 60.0) == 2.0
    assert time_to_drain(100, 0.0, 25.0, 60.0) == 64.0, "the first worker starts, then works"
    assert time_to_drain(100, 0.0, 0.0, 60.0) is None, "no speed is known"


@given(rows, rows, rates, speeds, seconds)
def test_more_rows_take_longer(few: int, more: int, rate: float, speed: float, cold: float) -> None:
    first, second = (time_to_drain(n, rate, speed, cold) for n in sorted((few, more)))
    assert first is not None
    assert second is not None
    assert 0 <= first <= second


@given(demands, targets, targets, seconds)
def test_the_need_is_finite_and_grows_with_the_work(
    demand: Demand, target: float, batch: float, horizon: float
) -> None:
    need = workers_needed(demand, target, batch, horizon)
    assert need >= 0
    assert math.isfinite(need)
    for field in ("rows", "batch_rows", "arrival", "growth"):
        grown = dataclasses.replace(demand, **{field: getattr(demand, field) + 1000})
        assert workers_needed(grown, target, batch, horizon) >= need
    faster = dataclasses.replace(demand, speed=2 * demand.speed)
    assert workers_needed(faster, target, batch, horizon) <= need


@given(demands, targets, targets, seconds, seconds)
def test_a_longer_target_needs_no_more_workers(
    demand: Demand, target: float, batch: float, horizon: float, more: float
) -> None:
    assert workers_needed(demand, target + more, batch, horizon) <= workers_needed(demand, target, batch, horizon)


@given(rows, speeds, st.floats(1, 3600), targets)
def test_work_that_is_done_before_a_new_worker_is_ready_needs_none(
    waiting: int, speed: float, cold: float, target: float
) -> None:
    shrinking = Demand(waiting, 0, 0.0, -(waiting + 1.0) / cold, speed, busy=True)
    assert workers_needed(shrinking, target, 600.0, cold) == 0


def test_the_backlog_that_grows_until_new_workers_are_ready_counts() -> None:
    need = workers_needed(Demand(100, 0, 50.0, 50.0, 100.0, busy=True), target=10.0, batch_target=600.0, horizon=60.0)
    assert need == (50 / UTILISATION + (100 + 50 * 60) / 10) / 100


def test_without_a_known_speed_one_worker_has_to_measure_it() -> None:
    assert workers_needed(Demand(10**6, 0, busy=True), 10.0, 600.0, 60.0) == 1.0
    assert workers_needed(Demand(), 10.0, 600.0, 60.0) == 0.0


def test_a_rate_that_is_only_remembered_needs_no_worker() -> None:
    """Nothing waits and nothing ran: the smoothed rate would keep a worker for most of a minute."""
    assert workers_needed(Demand(arrival=50.0, speed=10.0), 10.0, 600.0, 60.0) == 0.0
    assert workers_needed(Demand(arrival=50.0, speed=10.0, busy=True), 10.0, 600.0, 60.0) > 6.0
