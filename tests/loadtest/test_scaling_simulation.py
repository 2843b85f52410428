"""The simulated day: nothing is lost, bounds hold, and nobody does better than the policy that knows the future."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from loadtest.cli import main
from loadtest.scaling.results import POLICIES, ScalingResults, Trial
from loadtest.scaling.run import simulated_day
from loadtest.scaling.simulation import ModelRun, Scene, Waits, simulate
from loadtest.scaling.trace import DAY, KINDS, TICK, ModelTrace, day, totals

SCENE = Scene(most=4, window=30.0, deadline=20.0)
TRACES = st.builds(
    ModelTrace,
    st.just("any"),
    st.sampled_from([0.5, 3.0, 20.0]),
    st.floats(0.0, 60.0),
    st.dictionaries(st.integers(0, 59), st.integers(1, 400), max_size=25),
)


@given(TRACES, st.sampled_from(POLICIES))
def test_every_row_is_served_once_and_workers_stay_within_their_bound(trace: ModelTrace, policy: str) -> None:
    run = ModelRun(trace, SCENE, policy)
    run.run(60 * TICK)
    assert run.waits.rows == run.arrived == trace.total
    assert run.highest <= SCENE.most
    assert 0 <= run.waits.late <= run.waits.rows
    assert run.waits.worst >= 0
    assert run.worker_seconds * trace.speed >= trace.total - SCENE.most * trace.speed * TICK


@given(TRACES)
def test_who_knows_the_future_is_never_later_than_the_others(trace: ModelTrace) -> None:
    found = {policy: simulate([trace], SCENE, policy, 60 * TICK) for policy in POLICIES}
    for policy in POLICIES:
        assert found["future"].late <= found[policy].late
        assert found["future"].worst <= found[policy].worst + TICK


def test_a_request_to_a_model_without_a_worker_waits_for_the_cold_start_alone() -> None:
    trace = ModelTrace("idle", 10.0, 30.0, {7: 1})
    assert simulate([trace], SCENE, "ours", 120.0).worst == pytest.approx(30.1, abs=0.2)
    assert simulate([trace], SCENE, "lag", 120.0).worst > 35.0, "it is looked at only now and then"
    future = simulate([trace], SCENE, "future", 120.0)
    assert future.worst < TICK
    assert future.worker_seconds <= 30.0 + 2 * TICK


def test_the_same_seed_gives_the_same_day() -> None:
    traces = day(10, 3, 7200.0)
    assert traces == day(10, 3, 7200.0) != day(10, 4, 7200.0)
    assert {trace.kind for trace in traces} == set(KINDS)
    assert sum(totals(traces).values()) == sum(trace.total for trace in traces)
    assert all(0 <= tick < 7200.0 / TICK for trace in traces for tick in trace.rows)
    assert DAY % TICK == 0


def test_a_day_has_every_kind_and_policy() -> None:
    said: list[str] = []
    found = simulated_day(10, 0, 3600.0, {}, said.append)
    assert list(found.groups) == list(KINDS)
    assert [one.policy for one in found.groups["bursts"]] == list(POLICIES)
    assert found.facts["rows"] == sum(of[0].rows for of in found.groups.values())
    assert len(said) == len(KINDS)


def test_waits_have_percentiles_within_their_bins() -> None:
    waits = Waits()
    for wait in range(1, 101):
        waits.add(wait / 10, wait / 10, 1, late=wait > 10)
    assert waits.percentile(0.5) == pytest.approx(5.0, rel=0.03)
    assert waits.percentile(1.0) == 10.0
    assert (waits.late, waits.worst) == (90, 10.0)
    assert Waits().percentile(0.99) == 0.0


def test_the_command_writes_the_simulated_day_and_leaves_the_trial_alone(tmp_path: Path) -> None:
    out = tmp_path / "scaling.md"
    ScalingResults(Trial([], [], {}, {"commit": "abc"})).save(out.with_suffix(".json"))
    result = CliRunner().invoke(main, ["scaling", "--simulate", "--models", "3", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "## A simulated day" in out.read_text()
    kept = ScalingResults.load(out.with_suffix(".json"))
    assert kept.trial is not None
    assert kept.trial.about == {"commit": "abc"}
