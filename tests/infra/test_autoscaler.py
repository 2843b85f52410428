"""KEDA's and the horizontal pod autoscaler's arithmetic."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local.autoscaler import Autoscaler, Behaviour, Reading, Replica, surplus

READINGS = st.one_of(
    st.none(), st.builds(Reading, st.booleans(), st.one_of(st.floats(0, 1e6), st.sampled_from([math.inf, math.nan])))
)


def test_the_first_replica_is_started_alone_and_the_others_follow() -> None:
    scaler = Autoscaler(Behaviour(most=6))
    assert scaler.decide(0.0, Reading(True, 4.2), 0) == 1
    assert scaler.decide(1.0, Reading(True, 4.2), 1) == 5
    assert scaler.decide(2.0, Reading(True, 40.0), 5) == 6


def test_a_tenth_is_ignored() -> None:
    scaler = Autoscaler(Behaviour(most=100, window=0.0))
    assert scaler.decide(0.0, Reading(True, 21.9), 20) == 20
    assert scaler.decide(1.0, Reading(True, 22.1), 20) == 23
    assert scaler.decide(2.0, Reading(True, 18.0), 20) == 20
    assert scaler.decide(3.0, Reading(True, 17.9), 20) == 18


def test_it_falls_to_the_highest_of_the_window_and_to_zero_after_the_cooldown() -> None:
    scaler = Autoscaler(Behaviour(most=10, window=5.0, cooldown=8.0))
    assert scaler.decide(0.0, Reading(True, 6.0), 6) == 6
    assert scaler.decide(4.0, Reading(True, 2.0), 6) == 6
    assert scaler.decide(5.5, Reading(True, 1.0), 6) == 2
    assert scaler.decide(11.0, Reading(False, 0.0), 2) == 1
    assert scaler.decide(13.5, Reading(False, 0.0), 1) == 0


def test_an_unknown_signal_changes_nothing() -> None:
    assert Autoscaler(Behaviour()).decide(0.0, None, 3) == 3
    assert Autoscaler(Behaviour(least=1)).decide(0.0, None, 0) == 1, "but the least there has to be"


@given(st.lists(st.tuples(st.floats(0, 10), READINGS), max_size=40), st.integers(0, 3), st.integers(3, 9))
def test_the_number_is_within_its_bounds_and_not_zero_while_there_is_work(
    steps: list[tuple[float, Reading | None]], least: int, most: int
) -> None:
    behaviour = Behaviour(least, most, window=5.0, cooldown=5.0)
    scaler, now, replicas = Autoscaler(behaviour), 0.0, least
    for pause, reading in steps:
        now += pause
        replicas = scaler.decide(now, reading, replicas)
        assert least <= replicas <= most
        if reading is not None and reading.active:
            assert replicas >= 1


def test_bounds_that_are_not_ordered_are_refused() -> None:
    with pytest.raises(ValueError, match="ordered"):
        Behaviour(3, 2)


def test_those_that_are_not_ready_are_stopped_first_then_the_youngest() -> None:
    replicas = [Replica("old", 0.0, True), Replica("new", 2.0, True), Replica("loads", 1.0, False)]
    assert surplus(replicas, 3) == []
    assert surplus(replicas, 2) == ["loads"]
    assert surplus(replicas, 0) == ["loads", "new", "old"]
