"""How fast rows arrive, and how fast a worker runs them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scaling.pace import Pace, Progress


def run(
    pace: Pace, seconds: float, *, arrival: float, served: float, began: float = 0.0, rows: float = 0.0
) -> tuple[float, float]:
    """Half-second looks at a worker; returns the time and the backlog at the end."""
    now, executed = began, 0.0
    while now < began + seconds:
        pace.observe(now, [Progress("w", round(executed), at=now)], round(rows), 0)
        now += 0.5
        done = min(rows + arrival * 0.5, served * 0.5)
        rows, executed = rows + arrival * 0.5 - done, executed + done
    return now, rows


@pytest.mark.parametrize("served", [50.0, 100.0, 500.0])
def test_the_arrival_is_known_whether_workers_keep_up_or_not(served: float) -> None:
    pace = Pace()
    run(pace, 60.0, arrival=100.0, served=served)
    assert pace.arrival == pytest.approx(100.0, rel=0.05)
    assert pace.growth == pytest.approx(max(0.0, 100.0 - served), abs=2.0)


def test_a_batch_job_is_no_arrival_of_interactive_rows() -> None:
    pace, now, executed, batch = Pace(), 0.0, 0, 0
    for turn in range(200):
        batch += 100_000 if turn == 20 else 0
        done = min(batch, 50)
        pace.observe(now, [Progress("w", executed, at=now)], 0, batch)
        batch, executed, now = batch - done, executed + done, now + 0.5
        assert pace.arrival <= 1.0


def test_a_restarted_worker_has_run_nothing_yet() -> None:
    pace = Pace()
    pace.observe(0.0, [Progress("w 1", 10**6, at=0.0)], 0, 0)
    pace.observe(1.0, [Progress("w 2", 5, at=1.0)], 0, 0)
    pace.observe(2.0, [Progress("w 2", 5, at=2.0)], 0, 0)
    assert pace.arrival == 0.0
    assert not pace.ran


def test_a_saturated_worker_says_how_fast_it_is() -> None:
    pace = Pace()
    for turn in range(20):
        at = turn * 0.5
        pace.observe(at, [Progress("w", turn * 20, 500.0, saturated=True, full=8, at=at)], 100, 0)
        if turn < 3:
            assert pace.speed == 500.0
    assert pace.speed == pytest.approx(40.0, rel=0.01)


def test_what_is_known_of_the_speed_stays_when_the_worker_goes() -> None:
    pace = Pace()
    pace.observe(0.0, [Progress("w", 0, 200.0)], 0, 0)
    pace.observe(1.0, [], 5, 0)
    pace.predict(7.0)
    assert pace.speed == 200.0
    fresh = Pace()
    fresh.predict(7.0)
    assert fresh.speed == 7.0


moments = st.tuples(
    st.floats(0, 100), st.lists(st.builds(Progress, st.sampled_from("abc"), st.integers(0, 10**15), st.floats(0, 1e9),
                                          st.booleans(), st.integers(1, 4096), st.floats(0, 1e10)), max_size=4),
    st.integers(0, 10**9), st.integers(0, 10**9),
)  # fmt: skip


@given(st.lists(moments, max_size=40))
def test_rates_are_numbers_whatever_workers_say(said: list[tuple[float, list[Progress], int, int]]) -> None:
    pace, now = Pace(), 0.0
    for pause, workers, rows, batch in said:
        now += pause
        pace.observe(now, workers, rows, batch)
        for value in (pace.arrival, pace.growth, pace.speed):
            assert math.isfinite(value)
        assert pace.arrival >= 0
        assert pace.speed >= 0
