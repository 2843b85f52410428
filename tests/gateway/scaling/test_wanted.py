"""How many workers are wanted over time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scaling.wanted import MAX_COLD_START, MOST, ColdStart, Policy, WantedWorkers, reported
from protocol.errors import InvalidArgument

needs = st.one_of(st.floats(0, 200), st.just(math.inf))
moments = st.tuples(st.floats(0, 90), needs, st.booleans(), st.integers(0, 200))
policies = st.builds(
    lambda least, more, window: Policy(least=least, most=least + more, window=window),
    st.integers(0, 5), st.integers(0, 300), st.sampled_from([0.0, 1.0, 60.0, 120.0]),
)  # fmt: skip


@given(policies, st.lists(moments, max_size=60))
def test_it_rises_at_once_and_falls_after_the_window(
    policy: Policy, given_: list[tuple[float, float, bool, int]]
) -> None:
    wanted, now, history = WantedWorkers(policy), 0.0, list[tuple[float, int]]()
    for pause, need, busy, ready in given_:
        now += pause
        number = wanted.decide(now, need, busy, ready)
        asked = policy.most if need == math.inf else math.ceil(need - 0.05)
        asked = min(max(asked, int(busy), policy.least), policy.most)
        history.append((now, asked))
        assert policy.least <= number <= policy.most
        assert number >= asked, "up at once"
        assert not busy or number >= min(1, policy.most), "one request is enough"
        assert number == max(n for at, n in history if at >= now - policy.window), (
            "the highest of the window, and no more"
        )


def test_a_group_that_is_taken_over_keeps_its_workers_for_a_window() -> None:
    wanted = WantedWorkers(Policy(window=60.0))
    wanted.begin(0.0, 7)
    assert [wanted.decide(now, 1.0, busy=True, ready=7) for now in (0.0, 30.0, 60.0, 61.0)] == [7, 7, 7, 1]


@given(st.lists(st.floats(0, 10_000), max_size=300))
def test_it_keeps_no_more_numbers_than_there_can_be(values: list[float]) -> None:
    wanted = WantedWorkers(Policy())
    for turn, need in enumerate(sorted(values, reverse=True)):
        wanted.decide(turn * 0.001, need, busy=False, ready=0)
    assert len(wanted._recent) <= MOST + 1


@pytest.mark.parametrize(
    "values", [{"target": 0.0}, {"window": -1.0}, {"least": 3, "most": 2}, {"most": MOST + 1}, {"cold_start": 1e9}]
)
def test_a_policy_that_cannot_be_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument):
        Policy(**values)  # type: ignore[arg-type]


def test_the_horizon_is_the_rest_of_the_cold_start_of_those_that_are_starting() -> None:
    wanted = WantedWorkers(Policy())
    assert wanted.horizon(0.0, 60.0) == 60.0
    wanted.decide(10.0, 3.0, busy=True, ready=1)
    assert wanted.horizon(40.0, 60.0) == 30.0
    assert wanted.horizon(200.0, 60.0) == 60.0, "they did not come"
    wanted.decide(50.0, 3.0, busy=True, ready=3)
    assert wanted.horizon(55.0, 60.0) == 60.0


def test_a_cold_start_is_measured_from_when_workers_are_wanted() -> None:
    cold = ColdStart(60.0)
    for now, wanted, ready in ((0.0, 0, 0), (5.0, 1, 0), (15.0, 1, 0), (25.0, 1, 1), (30.0, 1, 1)):
        cold.observe(now, wanted, ready)
    assert (cold.measured, cold.seconds) == (True, 20.0)
    cold.observe(40.0, 2, 1)
    cold.observe(50.0, 2, 2)
    assert cold.seconds == 15.0


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 9), st.integers(0, 9)), max_size=50))
def test_a_cold_start_stays_within_its_bounds(moments_: list[tuple[float, int, int]]) -> None:
    cold, now = ColdStart(60.0), 0.0
    for pause, wanted, ready in moments_:
        now += pause
        cold.observe(now, wanted, ready)
        assert 0 <= cold.seconds <= MAX_COLD_START


@given(st.integers(0, MOST), st.integers(0, MOST), st.sampled_from([0.0, 0.05, 0.1, 0.5]))
def test_what_is_reported_is_not_ignored_by_the_autoscaler(wanted: int, ready: int, tolerance: float) -> None:
    """The autoscaler's rule: it does nothing while |value / replicas - 1| <= tolerance, else it wants ceil(value)."""
    value = reported(wanted, ready, tolerance)
    assert value >= wanted
    if wanted > ready > 0:
        assert value / ready > 1 + tolerance
        assert value <= math.floor(ready * (1 + tolerance)) + 1 or value == wanted
    else:
        assert value == wanted
