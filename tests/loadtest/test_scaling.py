"""The pure parts of the scaling trial: its load, the plan that knows the future, what the signals compute, and the page."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local.autoscaler import Reading
from loadtest.samples import Outcome
from loadtest.scaling import future
from loadtest.scaling.future import ColdStarts, needed, plan
from loadtest.scaling.load import Load, Phases
from loadtest.scaling.report import markdown, verdict
from loadtest.scaling.results import PolicyRun, ScalingResults, ShapeResult, Trial, Wake
from loadtest.scaling.run import write
from loadtest.scaling.signals import FutureSignal, lag_load, lag_of
from loadtest.scaling.trial import percentile, shape_result, tails, unanswered

COLD = ColdStarts(3.0, 5.0, 5)


def test_a_load_has_its_rates_and_is_zero_outside() -> None:
    load = Load(((0.0, 0.0), (10.0, 20.0), (10.0, 5.0), (20.0, 5.0)))
    assert [load.rate(at) for at in (-1.0, 0.0, 5.0, 10.0, 19.9, 20.0)] == [0.0, 0.0, 10.0, 5.0, 5.0, 0.0]
    assert (load.seconds, load.peak) == (20.0, 20.0)


@pytest.mark.parametrize(
    "points", [((0.0, 1.0),), ((1.0, 1.0), (2.0, 1.0)), ((0.0, 1.0), (2.0, 1.0), (1.0, 1.0)), ((0.0, -1.0), (1.0, 0.0))]
)
def test_a_load_that_cannot_be_is_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match=r"load|rate"):
        Load(points)


def test_arrivals_follow_the_rate_and_are_the_same_for_a_seed() -> None:
    phases = Phases(peak=200.0)
    load = phases.load()
    times = list(load.arrivals(3))
    assert times == list(load.arrivals(3)) == sorted(times)
    assert times != list(load.arrivals(4))
    expected = 200.0 * (phases.up + phases.top + phases.step)
    assert abs(len(times) - expected) < 4 * math.sqrt(expected)
    assert all(load.rate(at) > 0 for at in times)
    assert {phases.shape(at) for at in times} == {"ramp", "step"}
    assert not list(Load(((0.0, 0.0), (5.0, 0.0))).arrivals())


def test_phases_scale_and_may_be_a_step_alone() -> None:
    assert Phases().scaled(0.5).load().seconds == Phases().load().seconds / 2
    step = dataclasses.replace(Phases(), up=0.0, top=0.0).load()
    assert [step.rate(at) for at in (0.0, 11.9, 12.0, 41.9, 42.0)] == [0.0, 0.0, 70.0, 70.0, 0.0]


def test_the_future_starts_workers_one_cold_start_early() -> None:
    load = Load(((0.0, 0.0), (10.0, 0.0), (10.0, 64.0), (20.0, 64.0), (20.0, 0.0), (30.0, 0.0)))
    changes = plan(load.rate, load.seconds, 20.0, 6, COLD)
    assert [number for _, number in changes] == [4, 0]
    assert changes[0][0] == pytest.approx(10.0 - COLD.seconds(4), abs=0.2)
    assert changes[1][0] == pytest.approx(20.0, abs=0.2)


@given(st.lists(st.floats(0, 200), min_size=2, max_size=8), st.floats(0.5, 6.0), st.floats(0.0, 3.0), st.integers(1, 8))
def test_the_future_always_has_what_is_needed(rates: list[float], one: float, more: float, most: int) -> None:
    load = Load(tuple((4.0 * index, rate) for index, rate in enumerate(rates)))
    changes = plan(load.rate, load.seconds, 20.0, most, ColdStarts(one, one + more, 4))
    for step in range(int(load.seconds / future.STEP)):
        at = step * future.STEP
        assert future.at(changes, at + 1e-6) >= needed(load.rate(at), 20.0, most)
    assert all(0 <= number <= most for _, number in changes)
    assert [at for at, _ in changes] == sorted(at for at, _ in changes)


async def test_the_future_is_read_at_the_time_that_it_is() -> None:
    now = [0.0]
    signal = FutureSignal([(-1.0, 2), (5.0, 0)], lambda: now[0])
    assert await signal.read(0) == Reading(True, 2.0)
    now[0] = 5.0
    assert await signal.read(2) == Reading(False, 0.0)


def test_lag_counts_what_is_not_committed_and_stops_at_the_partitions() -> None:
    assert lag_of({0: (0, 10), 1: (5, 9), 2: (3, 3)}, {0: 4}) == 6 + 4
    assert lag_of({0: (8, 10)}, {0: 4}) == 2, "what retention deleted is no lag"
    assert lag_load(25, 12) == 2.5
    assert lag_load(10_000, 12) == 12.0


ROWS = [(0.0, 0.3, Outcome.OK), (1.0, 9.0, Outcome.OK), (2.5, 2.6, Outcome.REJECTED)]


def test_a_request_counts_from_when_it_was_due() -> None:
    found = shape_result(ROWS, 5.0, 12.0, 2)
    assert (found.requests, found.late, found.worst, found.worker_seconds) == (3, 2, 8.0, 12.0)
    assert found.outcomes == {"ok": 2, "rejected": 1}
    assert [unanswered(ROWS, at) for at in (0.1, 0.3, 2.55, 9.0)] == [1, 0, 2, 0]
    assert tails(ROWS) == [(1.0, 8.0), (3.0, 0.1)]
    assert percentile([1.0, 2.0, 3.0], 0.5) == 2.0


def trial(ours: float = 120.0, ok: int = 10) -> Trial:
    def run(policy: str, seconds: float, p99: float) -> PolicyRun:
        shape = ShapeResult(10, {"ok": ok, "failed": 10 - ok}, 0.3, p99, 4.0, 1, seconds, 3)
        samples = [(0.0, 0, 0, 0, 0.0), (0.5, 3, 1, 0, None)]
        return PolicyRun(policy, {"ramp": shape, "step": shape}, samples, [(1.0, 0.5)], {"0": 3}, {}, 20.0)

    facts = {
        "speed": 19.0, "cpu": 0.05, "cold start": 3.0, "cold start together": 5.0, "peak": 70.0, "most": 6.0, "window": 5.0,
        "every": 1.0, "drain": 2.5, "deadline": 5.0, "ramp ends": 10.0, "step begins": 12.0, "step ends": 20.0,
    }  # fmt: skip
    return Trial([run("ours", ours, 1.0), run("future", 100.0, 1.0)], [Wake(0.01, 4.0, 3.0)], facts, {"commit": "abc"})


def test_the_page_says_whether_the_goal_is_met_and_whether_anything_was_lost(tmp_path: Path) -> None:
    assert "1.20 times as many, within the goal, at equal or better p99" in verdict(trial())
    assert "1.50 times as many, more than the goal," in verdict(trial(150.0))
    page = markdown(ScalingResults(trial()), ["scaling/trial.png"])
    assert "**Nothing was lost or refused**: all 40 requests" in page
    assert "| the scaler's push | 10.0 | 10.0 | 10.0 |" in page
    assert "**8 of 40 requests were not answered right.**" in markdown(ScalingResults(trial(ok=8)), [])


def test_results_survive_their_json_and_the_page_is_written_with_its_picture(tmp_path: Path) -> None:
    results, out = ScalingResults(trial()), tmp_path / "scaling.md"
    write(results, out)
    assert ScalingResults.load(out.with_suffix(".json")) == results
    assert (tmp_path / "scaling" / "trial.png").stat().st_size > 10_000
    assert "![trial.png](scaling/trial.png)" in out.read_text()
    assert ScalingResults.load(tmp_path / "none.json") == ScalingResults()
