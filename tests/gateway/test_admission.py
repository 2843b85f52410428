from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission import Admission, Limits
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

    assert "for this model" in refused(admission, "a").message
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
