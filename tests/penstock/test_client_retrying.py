from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.client.retrying import LONGEST_PAUSE, LONGEST_WAIT, Attempts, Unreached
from protocol.errors import Code, FleetError

errors = st.one_of(
    st.builds(lambda sent: Unreached("x", sent=sent), st.booleans()),
    st.builds(
        lambda code, after: FleetError("x", code=code, retry_after=after),
        st.sampled_from(Code),
        st.none() | st.floats(0, 200),
    ),
    st.just(ValueError("a bug")),
)
attempts = st.builds(Attempts, st.integers(0, 5), st.booleans(), st.none() | st.floats(0, 100))


@given(attempts, errors, st.integers(1, 10), st.floats(0, 100), st.floats(0, 1))
def test_what_may_have_run_is_not_repeated_and_nothing_is_after_the_deadline(
    plan: Attempts, error: Exception, attempt: int, now: float, luck: float
) -> None:
    pause = plan.pause(error, attempt, now, luck)

    if pause is None:
        return
    assert attempt <= plan.retries
    assert 0 <= pause <= LONGEST_PAUSE + LONGEST_WAIT
    assert plan.until is None or now + pause < plan.until
    assert isinstance(error, FleetError)
    if isinstance(error, Unreached):
        assert plan.repeatable or not error.sent
    else:
        assert error.code in (Code.EXHAUSTED, Code.UNAVAILABLE)
        assert pause >= (error.retry_after or 0)


@given(st.integers(1, 5), st.floats(0, 1))
def test_what_did_not_run_is_repeated_while_there_are_attempts(attempt: int, luck: float) -> None:
    plan = Attempts(5, repeatable=False)

    assert plan.pause(Unreached("x", sent=False), attempt, 0.0, luck) is not None
    assert plan.pause(FleetError("x", code=Code.EXHAUSTED, retry_after=3), attempt, 0.0, luck) is not None
    assert plan.pause(Unreached("x", sent=False), 6, 0.0, luck) is None


@pytest.mark.parametrize(("repeatable", "again"), [(True, True), (False, False)])
def test_a_call_that_broke_is_repeated_only_if_that_does_no_harm(repeatable: bool, again: bool) -> None:
    plan = Attempts(1, repeatable)

    assert (plan.pause(Unreached("x", sent=True), 1, 0.0, 0.5) is not None) is again


def test_a_long_retry_after_is_the_callers_decision() -> None:
    assert Attempts(3, repeatable=True).pause(FleetError("x", code=Code.UNAVAILABLE, retry_after=3600), 1, 0, 0) is None
