from __future__ import annotations

import pytest

from loadtest import report
from loadtest.goals import GOALS, Goal
from loadtest.results import ClosedPoint, ModelResult, Results, ServerResult


def results(rate: float, p50: float) -> Results:
    closed = [
        ClosedPoint(1, 1.0, 900.0, {"p50": p50, "p99": 5.0}),
        ClosedPoint(64, 1.0, rate, {"p50": 9.0, "p99": 20.0}, batch=20.0),
    ]
    model = ModelResult(closed, [])
    limits = {"mlp": {1: 100.0, 32: 15_000.0}}
    servers = {"embedded": ServerResult(0.8, {}, {"addsub": model, "mlp": model}, limits)}
    return Results({}, limits, servers)


def goal(text: str) -> Goal:
    return next(goal for goal in GOALS if goal.text.startswith(text))


@pytest.mark.parametrize(("rate", "met"), [(8000.0, True), (7999.0, False)])
def test_a_rate_is_a_lower_bound(rate: float, met: bool) -> None:
    assert goal("embedded: add/sub, best rate").met(results(rate, 0.5)) is met


@pytest.mark.parametrize(("p50", "met"), [(0.6, True), (0.61, False)])
def test_a_latency_is_an_upper_bound_at_its_number_of_callers(p50: float, met: bool) -> None:
    assert goal("embedded: add/sub, p50").met(results(8000, p50)) is met


@pytest.mark.parametrize(("rate", "met"), [(9000.0, True), (8999.0, False)])
def test_a_share_is_of_the_best_batch_size(rate: float, met: bool) -> None:
    assert goal("embedded: mlp, share").met(results(rate, 0.5)) is met


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    empty = Results({})
    assert all(goal.met(empty) is None for goal in GOALS)
    assert goal("fleet: add/sub at 256").met(results(9000, 0.5)) is None
    assert "| not measured |" in report.markdown(empty)


def test_the_report_says_yes_or_no() -> None:
    text = report.markdown(results(8500, 0.7))
    assert "| embedded: add/sub, best rate per second | ≥ 8,000 | 8,500 | yes | - | - |" in text
    assert "| embedded: add/sub, p50 with one caller, ms | ≤ 0.60 | 0.70 | NO | - | - |" in text


@pytest.mark.parametrize(("rate", "met"), [(3700.0, True), (3500.0, False)])
def test_a_goal_travels_by_what_triton_does_in_the_same_run(rate: float, met: bool) -> None:
    ran = results(rate, 1.2)
    rival = ModelResult([ClosedPoint(1, 1.0, 5_000.0, {"p50": 0.44, "p99": 1.0})], [])
    ran.servers["triton"] = ServerResult(1.0, {}, {"addsub-python": rival})
    best, alone = goal("embedded: add/sub, best rate per second"), goal("embedded: add/sub, p50")
    assert best.scaled(ran) == pytest.approx(8000 * 5000 / 11_100)
    assert best.met_here(ran) is met
    assert (alone.scaled(ran), alone.met(ran), alone.met_here(ran)) == (pytest.approx(1.2), False, True)


def test_without_the_other_server_a_goal_does_not_travel() -> None:
    ran = results(8500, 0.7)
    assert all(goal.scaled(ran) is None and goal.met_here(ran) is None for goal in GOALS)
