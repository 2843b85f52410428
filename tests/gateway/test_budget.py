"""The budget: nothing is kept that was not counted, and everything counted is returned once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.admission import SHARE, Admission, Limits
from gateway.admission.budget import Budget, Budgets, Share
from protocol.errors import Exhausted


def test_what_is_over_the_limit_is_refused_and_counts_for_nothing() -> None:
    budget = Budget(100)

    assert budget.take(60)
    assert not budget.take(41)
    assert (budget.used, budget.refused) == (60, 1)
    assert budget.take(40)


def test_a_part_is_bounded_by_itself_and_by_the_whole() -> None:
    whole = Budget(100)
    part = whole.part(50)

    assert not part.take(51)
    assert whole.take(70)
    assert not part.take(31)
    assert part.take(30)
    assert (whole.used, part.used) == (100, 30)
    part.give(30)
    assert (whole.used, part.used) == (70, 0)


def test_strangers_and_unread_answers_cannot_take_all_of_it() -> None:
    budgets = Budgets.of(1000)

    assert not budgets.unauthenticated.take(251)
    assert not budgets.unread.take(501)
    assert budgets.unauthenticated.take(250)
    assert budgets.unread.take(500)
    assert budgets.whole.take(250)
    assert not budgets.whole.take(1)


def test_a_share_is_given_back_once() -> None:
    budget = Budget(100)
    share = Share(budget)
    assert share.hold(80)

    share.free()
    share.free()

    assert (budget.used, share.size) == (0, 0)


def test_admission_and_other_holders_share_one_budget() -> None:
    budget = Budget(100)
    admission = Admission(Limits(calls=10, size=100, calls_per_model=10), budget)
    share = Share(budget)

    admission.admit("t", 60)
    assert not share.hold(41)
    assert share.hold(40)
    admission.leave("t", 60)

    assert (admission.size, budget.used) == (0, 40)


_HOLDERS = 5
_STEPS = st.lists(st.tuples(st.integers(0, _HOLDERS - 1), st.none() | st.integers(0, 120)), max_size=60)


@given(_STEPS, st.lists(st.tuples(st.booleans(), st.integers(0, 120)), max_size=30))
def test_the_sum_of_what_is_held_is_what_is_used_and_never_over_a_limit(
    steps: list[tuple[int, int | None]], calls: list[tuple[bool, int]]
) -> None:
    budgets = Budgets.of(200)
    parts = [budgets.whole, budgets.unauthenticated, budgets.unread, budgets.unauthenticated, budgets.whole]
    shares = [Share(part) for part in parts]
    admission = Admission(Limits(calls=100, size=200, calls_per_model=100), budgets.whole)
    waiting: list[int] = []
    for at, (holder, size) in enumerate(steps):
        share = shares[holder]
        before = share.size
        if size is None:
            share.free()
        elif not share.hold(size):
            assert share.size == before
            assert size > before
        if at < len(calls):
            _call(admission, waiting, *calls[at])

        assert budgets.whole.used == sum(share.size for share in shares) + admission.size <= 200
        assert budgets.unauthenticated.used == shares[1].size + shares[3].size <= 50
        assert budgets.unread.used == shares[2].size <= 100
        assert admission.size == sum(waiting)

    for share in shares:
        share.free()
    for size in waiting:
        admission.leave("t", size)
    assert [budgets.whole.used, budgets.unauthenticated.used, budgets.unread.used, admission.size] == [0, 0, 0, 0]


def _call(admission: Admission, waiting: list[int], enters: bool, size: int) -> None:
    if not enters and waiting:
        admission.leave("t", waiting.pop())
        return
    room = admission.room
    try:
        admission.admit("t", size)
    except Exhausted:
        assert size > room or sum(waiting) > SHARE * room
    else:
        waiting.append(size)
