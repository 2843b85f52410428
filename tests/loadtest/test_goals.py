from __future__ import annotations

import pytest

from loadtest import comparison_report
from loadtest.comparison import Comparison, ScenarioResult, Server
from loadtest.goals import GOALS, Goal
from loadtest.scenarios import ROLES, SCENARIOS
from tests.loadtest.test_comparison import sample


def comparison(ours: float, *more: tuple[str, float]) -> Comparison:
    """Our rate with 1 and 64 callers on one Python, and on more of them; Triton's is 1000 everywhere."""
    rates = [("3.11.7", ours), *more]
    samples = [
        sample(index, Server(role, python), callers, value)
        for index in range(3)
        for python, own in rates
        for role, value in (("triton", 1000.0), ("onnx", own))
        for callers in (1, 64)
    ]
    return Comparison({}, {"addsub": ScenarioResult("abc", "today", samples)})


def goal(text: str) -> Goal:
    return next(goal for goal in GOALS if goal.text.startswith(text))


@pytest.mark.parametrize(("ours", "met"), [(1600.0, True), (1599.0, False)])
def test_a_rate_is_a_lower_bound(ours: float, met: bool) -> None:
    assert goal("add/sub, ONNX backend: best rate").met(comparison(ours)) is met


@pytest.mark.parametrize(("ours", "met"), [(667.0, True), (660.0, False)])
def test_a_latency_is_an_upper_bound(ours: float, met: bool) -> None:
    assert goal("add/sub, ONNX backend: p50").met(comparison(ours)) is met


def test_a_goal_is_reached_on_every_python_or_not_at_all() -> None:
    best = goal("add/sub, ONNX backend: best rate")
    assert best.met(comparison(1700.0, ("3.11.2", 1800.0))) is True
    assert best.met(comparison(1700.0, ("3.11.2", 1500.0))) is False
    page = comparison_report.markdown(comparison(1700.0, ("3.11.2", 1500.0)))
    assert "| 1.70 (1.70 to 1.70) on 3.11.7; 1.50 (1.50 to 1.50) on 3.11.2 | NO |" in page


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    assert all(goal.met(Comparison({})) is None for goal in GOALS)
    assert goal("add/sub, Python backend").met(comparison(1700.0)) is None
    assert "| not measured |" in comparison_report.markdown(comparison(1700.0))


def test_goals_read_points_that_a_run_measures() -> None:
    for each in GOALS:
        scenario = SCENARIOS[each.scenario]
        servers = [Server(role, "3") for role in ROLES]
        samples = [sample(0, server, callers, 100.0) for server in servers for callers in scenario.callers]
        full = Comparison({}, {scenario.name: ScenarioResult("", "", samples)})
        assert each.met(full) is not None, each.text
