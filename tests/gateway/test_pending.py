from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from gateway.calls.pending import SWEEP_AT_MOST, Call, Pending
from protocol.messages import InferReply
from protocol.ports import Wake
from tests.counting import lines_of

SWEEP_AFTER = 1.0


def new_call(ref: str = "r", deadline: float = math.inf, **fields: object) -> Call:
    call = Call(ref, "t", "m", "1", "", 10, deadline, 0.0, _ignore)
    for name, value in fields.items():
        setattr(call, name, value)
    return call


def _ignore(reply: InferReply) -> None:
    raise AssertionError("the table answers nobody itself")


def test_a_payload_is_for_everyone_who_waits_for_the_ref() -> None:
    pending = Pending(SWEEP_AFTER)
    calls = [new_call() for _ in range(3)]
    for call in calls:
        pending.register(call, 0.0)

    deliveries, pointers = pending.feed([Wake("r", b"x"), Wake("other", b"y")])

    assert sorted(id(call) for call, _ in deliveries) == sorted(map(id, calls))
    assert {payload for _, payload in deliveries} == {b"x"}
    assert pointers == []
    assert len(pending) == 0


def test_a_pointer_leaves_the_call_waiting_and_names_its_ref() -> None:
    pending = Pending(SWEEP_AFTER)
    pending.register(new_call("a"), 0.0)

    assert pending.feed([Wake("a", None), Wake("gone", None)]) == ([], ["a"])
    assert "a" in pending


def test_a_second_wake_up_delivers_nothing() -> None:
    pending = Pending(SWEEP_AFTER)
    pending.register(new_call(), 0.0)
    pending.feed([Wake("r", b"x")])

    assert pending.feed([Wake("r", b"x"), Wake("r", None)]) == ([], [])


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_one_of_several_twins_can_leave_alone(victim: int) -> None:
    pending = Pending(SWEEP_AFTER)
    calls = [new_call() for _ in range(3)]
    for call in calls:
        pending.register(call, 0.0)

    assert pending.drop(calls[victim])
    assert not pending.drop(calls[victim])
    deliveries, _ = pending.feed([Wake("r", b"x")])

    assert {id(call) for call, _ in deliveries} == {id(call) for call in calls if call is not calls[victim]}


def test_a_deadline_expires_only_the_call_that_has_it() -> None:
    pending = Pending(SWEEP_AFTER)
    early, late = new_call("r", 5.0), new_call("r", 9.0)
    pending.register(late, 0.0)
    pending.register(early, 0.0)

    assert pending.wake_at() == 5.0
    assert pending.expire(4.9) == []
    assert pending.expire(5.0) == [early]
    assert pending.wake_at() == 9.0
    assert pending.expire(10.0) == [late]
    assert pending.wake_at() == math.inf


def test_sweeps_begin_after_a_second_and_become_rarer() -> None:
    pending = Pending(SWEEP_AFTER)
    pending.register(new_call(), 100.0)
    times = [at / 10 for at in range(1000, 1600) if pending.sweep(at / 10)]

    assert times[0] == pytest.approx(100.0 + SWEEP_AFTER)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses == sorted(pauses)
    assert max(pauses) <= SWEEP_AT_MOST + 0.2


def test_a_ref_with_several_waiters_is_swept_once() -> None:
    pending = Pending(SWEEP_AFTER)
    pending.register(new_call(), 0.0)
    pending.register(new_call(), 0.0)

    assert pending.sweep(2.0) == ["r"]


@pytest.mark.parametrize("at", [0, 1, 500, 998, 999])
def test_one_of_a_thousand_who_wait_for_the_same_answer_leaves_in_few_steps(at: int) -> None:
    pending = Pending(SWEEP_AFTER)
    calls = [new_call() for _ in range(1000)]
    for call in calls:
        pending.register(call, 0.0)

    assert lines_of(lambda: pending.drop(calls[at])) < 25
    assert len(list(pending)) == len(pending) == 999


def test_a_call_of_another_table_is_not_dropped() -> None:
    pending = Pending(SWEEP_AFTER)
    pending.register(new_call(), 0.0)

    assert not pending.drop(new_call())
    assert len(pending) == 1


class PendingMachine(RuleBasedStateMachine):
    """Against a plain list of calls: each leaves exactly once, and no deadline is missed."""

    calls = Bundle("calls")

    @initialize()
    def begin(self) -> None:
        self.pending = Pending(SWEEP_AFTER)
        self.waiting: list[Call] = []
        self.now = 0.0

    @rule(target=calls, ref=st.sampled_from("abc"), after=st.one_of(st.none(), st.integers(0, 20)))
    def register(self, ref: str, after: int | None) -> Call:
        call = new_call(ref, math.inf if after is None else self.now + after)
        self.pending.register(call, self.now)
        self.waiting.append(call)
        return call

    @rule(ref=st.sampled_from("abc"))
    def feed(self, ref: str) -> None:
        expected = [call for call in self.waiting if call.ref == ref]
        deliveries, pointers = self.pending.feed([Wake(ref, b"x")])

        assert sorted(map(id, expected)) == sorted(id(call) for call, _ in deliveries)
        assert not pointers
        self.waiting = [call for call in self.waiting if call.ref != ref]

    @rule(target=calls, call=consumes(calls))
    def drop(self, call: Call) -> object:
        was_waiting = any(call is other for other in self.waiting)

        assert self.pending.drop(call) == was_waiting
        self.waiting = [other for other in self.waiting if other is not call]
        return multiple()

    @rule()
    def sleep_until_the_next_deadline(self) -> None:
        wake_at = self.pending.wake_at()
        deadlines = [call.deadline for call in self.waiting]

        assert wake_at <= min(deadlines, default=math.inf)
        if wake_at < math.inf:
            self.now = max(self.now, wake_at)
            self.expire(0)
            assert self.pending.wake_at() > wake_at or self.pending.wake_at() == math.inf

    @rule(seconds=st.integers(0, 10))
    def expire(self, seconds: int) -> None:
        self.now += seconds
        expected = [call for call in self.waiting if call.deadline <= self.now]

        assert sorted(map(id, self.pending.expire(self.now))) == sorted(map(id, expected))
        self.waiting = [call for call in self.waiting if call.deadline > self.now]

    @rule(seconds=st.integers(0, 4))
    def sweep(self, seconds: int) -> None:
        self.now += seconds
        due = [call for call in self.waiting if call.sweep_at <= self.now]
        refs = self.pending.sweep(self.now)

        assert sorted(refs) == sorted({call.ref for call in due}), (
            "no call that is due is skipped, no ref is read twice"
        )
        assert all(self.now < call.sweep_at <= self.now + SWEEP_AT_MOST for call in due)

    @invariant()
    def counts(self) -> None:
        assert len(self.pending) == len(self.waiting)
        assert sorted(map(id, self.pending)) == sorted(map(id, self.waiting))
        assert not any(call.left for call in self.waiting)


PendingMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPending = PendingMachine.TestCase
