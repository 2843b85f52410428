import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError
from tests.workers.test_bisection import Request
from workers.failures.limits import (
    CAP_RECOVERY,
    MAX_DEATHS_SHARE,
    MIN_BLAMED,
    MIN_TIME_LIMIT,
    TIME_LIMIT_FACTOR,
    WINDOW,
    Caps,
    CircuitBreaker,
    into_parts,
    time_limit,
)
from workers.repository.completion import stated_limit


def test_a_batch_that_ran_out_of_memory_halves_the_cap_of_its_shape_only() -> None:
    caps = Caps(64)
    assert caps.exceeded("a", 32, 0.0) == 16
    assert caps.exceeded("a", 16, 1.0) == 8
    assert caps.exceeded("a", 32, 1.0) == 8  # one that was formed before: the cap is lower by now
    assert (caps.cap("a", 1.0), caps.cap("b", 1.0)) == (8, None)
    assert caps.exceeded("a", 1, 2.0) == 1


def test_a_cap_is_raised_slowly_and_forgotten_at_the_maximum() -> None:
    caps = Caps(16)
    caps.exceeded("a", 16, 0.0)
    assert caps.cap("a", CAP_RECOVERY - 0.1) == 8
    assert caps.cap("a", CAP_RECOVERY) == 9
    assert caps.cap("a", CAP_RECOVERY * 3) == 11
    assert caps.cap("a", CAP_RECOVERY * 100) is None
    assert not caps


def test_only_so_many_shapes_have_a_cap() -> None:
    caps = Caps(16)
    for shape in range(1000):
        caps.exceeded(shape, 16, 0.0)
    assert caps.cap(999, 0.0) == 8
    assert sum(caps.cap(shape, 0.0) is not None for shape in range(1000)) == 64


@given(rows=st.lists(st.integers(1, 9), max_size=40), cap=st.none() | st.integers(1, 20), alone=st.sets(st.integers()))
def test_parts_hold_everybody_once_in_order_and_within_the_cap(
    rows: list[int], cap: int | None, alone: set[int]
) -> None:
    requests = [Request(n, count) for n, count in enumerate(rows)]
    suspects = [request for request in requests if request.number in alone]
    made = into_parts(requests, cap, suspects)
    together = [request for part in made[: len(made) - len(suspects)] for request in part]
    assert together == [request for request in requests if request not in suspects]
    assert made[len(made) - len(suspects) :] == [(suspect,) for suspect in suspects]
    for part in made:
        assert cap is None or len(part) == 1 or sum(request.rows for request in part) <= cap
    if cap is None:
        assert len(made) <= 1 + len(suspects)


def test_few_failures_and_a_few_bad_requests_among_good_ones_do_not_open_the_breaker() -> None:
    breaker = CircuitBreaker(MAX_DEATHS_SHARE)
    breaker.record(0.0, MIN_BLAMED - 1, 0)
    assert not breaker.is_open(0.0)
    breaker.record(0.0, 100, 100)
    assert not breaker.is_open(1.0)


def test_the_breaker_opens_when_nearly_everything_fails_and_closes_after_its_window() -> None:
    breaker = CircuitBreaker(MAX_DEATHS_SHARE)
    for second in range(10):
        breaker.record(float(second), 2, 0)
    assert breaker.is_open(10.0)
    breaker.record(10.0, 0, 3)
    assert breaker.is_open(10.0)
    breaker.record(11.0, 0, 30)
    assert not breaker.is_open(11.0)
    fresh = CircuitBreaker(MAX_DEATHS_SHARE)
    fresh.record(0.0, 100, 0)
    assert fresh.is_open(WINDOW - 0.1)
    assert not fresh.is_open(WINDOW)


@given(st.lists(st.tuples(st.floats(0, 1000), st.integers(0, 5), st.integers(0, 5)), max_size=60))
def test_the_breaker_counts_over_its_window(events: list[tuple[float, int, int]]) -> None:
    breaker = CircuitBreaker(MAX_DEATHS_SHARE)
    events.sort(key=lambda event: event[0])
    for at, blamed, innocent in events:
        breaker.record(at, blamed, innocent)
    breaker.is_open(3000.0)
    assert (breaker._blamed, breaker._innocent, len(breaker._events)) == (0, 0, 0)


def test_a_batch_hangs_beyond_a_multiple_of_its_prediction_or_what_the_model_states() -> None:
    assert time_limit(None, None) == MIN_TIME_LIMIT
    assert time_limit(None, 0.001) == MIN_TIME_LIMIT
    assert time_limit(None, 20.0) == 20.0 * TIME_LIMIT_FACTOR
    assert time_limit(None, 0.001, 300.0) == 300.0
    assert time_limit(0.25, 2.0) == 0.25
    assert stated_limit({}, "m") is None
    assert stated_limit({"max_execution_ms": "250"}, "m") == 0.25
    assert stated_limit({"max_execution_ms": "0"}, "m") == math.inf


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", ""])
def test_a_limit_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="max_execution_ms of model 'm'"):
        stated_limit({"max_execution_ms": text}, "m")
