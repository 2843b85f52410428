"""How long callers waited after a kill: each one's wait, the silence for all, and what else can explain it."""

from __future__ import annotations

import pytest

from penstock.verify.judge.gaps import Gap, gaps
from penstock.verify.observe.history import CallEnd, History, InjectedFault, ObservedCall
from penstock.verify.plan.plan import Call, CallKind, Plan

KILL = InjectedFault("worker-kill", "worker-0", 9.9, 10.1, hit=10.0)


def found(
    *callers: tuple[float, float], faults: tuple[InjectedFault, ...] = (), end: CallEnd = CallEnd.ANSWER
) -> list[Gap]:
    """The gaps after a kill at 10, of callers who called and were answered at these times."""
    history = History(faults=[KILL, *faults])
    calls = []
    for number, (sent, at) in enumerate(callers, 1):
        calls.append(Call(number, 0.0, CallKind.PLAIN, "checked", 1, 0))
        history.seen.append(ObservedCall(number, CallKind.PLAIN, "", end, at, sent))
    return gaps(Plan(1, 20.0, 6.0, tuple(calls), ()), history)


def test_a_caller_waits_from_the_kill_or_from_its_call() -> None:
    (gap,) = found((9.0, 10.5), (10.2, 11.5), (14.5, 19.0))

    assert gap.waiting == 2
    assert gap.wait == pytest.approx(1.3)


def test_nobody_is_answered_while_somebody_waits() -> None:
    (gap,) = found((9.0, 10.1), (10.8, 12.0), (10.9, 12.5))

    assert gap.silence == pytest.approx(1.2)


def test_a_caller_without_an_answer_has_waited_too() -> None:
    (gap,) = found((9.0, 84.0), end=CallEnd.SILENT)

    assert gap.wait == pytest.approx(74.0)


def test_who_was_answered_before_or_lost_the_connection_saw_nothing_of_it() -> None:
    assert found((9.0, 9.9)) == []
    assert found((9.0, 12.0), end=CallEnd.LOST) == []


@pytest.mark.parametrize(
    ("began", "ended", "alone"), [(5.0, 7.0, False), (5.0, 5.9, True), (13.5, 13.6, False), (14.5, 15.0, True)]
)
def test_a_kill_is_alone_where_nothing_else_can_explain_the_wait(began: float, ended: float, *, alone: bool) -> None:
    (gap,) = found((9.0, 16.0), faults=(InjectedFault("redis-drop", "all", began, ended),))

    assert gap.alone == alone


def test_a_fault_that_was_left_out_explains_nothing() -> None:
    (gap,) = found((9.0, 10.5), faults=(InjectedFault("redis-drop", "all", 9.0, 12.0, note="no proxy"),))

    assert gap.alone
