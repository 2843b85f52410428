from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.admission import Admission, Limits
from protocol.errors import Code, Exhausted

LIMITS = Limits(calls=4, size=100, calls_per_model=3)


def refused(admission: Admission, topic: str = "t", size: int = 1) -> Exhausted:
    with pytest.raises(Exhausted) as caught:
        admission.admit(topic, size)
    return caught.value


def test_calls_of_one_model_are_bounded_before_all_calls_are() -> None:
    admission = Admission(LIMITS)
    for _ in range(3):
        admission.admit("a", 1)

    assert "3 calls for this model" in refused(admission, "a").message
    admission.admit("b", 1)
    assert "4 calls wait" in refused(admission, "b").message
    with pytest.raises(Exhausted):
        admission.check()


def test_bytes_are_bounded_with_those_of_bodies_being_read() -> None:
    admission = Admission(LIMITS)
    admission.reserve(60)

    assert "60 bytes" in refused(admission, size=41).message
    admission.admit("t", 40)
    with pytest.raises(Exhausted):
        admission.reserve(1)
    admission.release(60)
    admission.reserve(1)


def test_a_refused_call_counts_for_nothing() -> None:
    admission = Admission(LIMITS)
    refused(admission, size=101)

    assert (admission.calls, admission.size) == (0, 0)


def test_the_code_is_exhausted_and_says_when_to_come_back() -> None:
    error = refused(Admission(Limits(0, 0, 0)))

    assert error.code is Code.EXHAUSTED
    assert error.retry_after is not None


def test_retry_after_is_the_time_that_those_who_wait_take_at_the_measured_rate() -> None:
    admission = Admission(Limits(1000, 10**9, 1000))
    admission.measure(10.0)
    for _ in range(100):
        admission.admit("t", 1)
        admission.leave("t", 1)
    admission.measure(12.0)  # 50 calls a second

    assert admission.retry_after(1) == 1.0
    assert admission.retry_after(500) == 10.0
    assert admission.retry_after(10**6) == 60.0


def test_a_stuck_fleet_asks_for_patience() -> None:
    admission = Admission(LIMITS)
    admission.measure(0.0)
    admission.measure(1.0)

    assert admission.retry_after(4) == 60.0


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 60)), max_size=30), st.randoms())
def test_counts_return_to_zero(calls: list[tuple[str, int]], random: object) -> None:
    admission, inside = Admission(LIMITS), []
    for topic, size in calls:
        try:
            admission.admit(topic, size)
            inside.append((topic, size))
        except Exhausted:
            assert admission.calls <= LIMITS.calls
            if inside:
                admission.leave(*inside.pop(0))
        assert admission.calls == len(inside)
        assert admission.size == sum(size for _, size in inside) <= LIMITS.size
    for topic, size in inside:
        admission.leave(topic, size)

    assert (admission.calls, admission.size) == (0, 0)


def test_a_model_that_is_stuck_leaves_room_for_others() -> None:
    admission = Admission(Limits(4096, 10**9))
    filled = _fill(admission, "stuck", 0)
    assert filled == 3072, "three quarters: the default was all of them"
    for n in range(10_000):
        admission.admit(f"other {n % 3}", 0)
        admission.leave(f"other {n % 3}", 0)
    assert refused(admission, "stuck").message == (
        "Exceeds maximum queue size: 3072 calls for this model wait at this gateway; at most 3072 may, while 3072 wait in all"
    )


def test_a_model_whose_large_calls_are_stuck_leaves_bytes_for_others() -> None:
    admission = Admission(Limits(4096, 512))
    assert _fill(admission, "stuck", 16) == 25
    assert "400 bytes of calls for this model wait" in refused(admission, "stuck", 16).message
    admission.admit("other", 16)


@given(st.integers(1, 200), st.integers(1, 12))
def test_every_model_gets_in_while_anything_is_free(calls: int, models: int) -> None:
    admission = Admission(Limits(calls, 10**9))
    taken = [_fill(admission, str(model), 1) for model in range(models)]
    assert taken == sorted(taken, reverse=True)
    assert sum(taken) <= calls
    assert (taken[-1] > 0) == (sum(taken[:-1]) < calls)


def test_a_limit_per_model_that_is_stated_is_the_limit() -> None:
    assert _fill(Admission(Limits(100, 10**9, 100)), "a", 0) == 100
    assert _fill(Admission(Limits(100, 10**9, 7)), "a", 0) == 7


def _fill(admission: Admission, topic: str, size: int) -> int:
    """How many calls are taken for a model that answers none."""
    count = 0
    with contextlib.suppress(Exhausted):
        while True:
            admission.admit(topic, size)
            count += 1
    return count
