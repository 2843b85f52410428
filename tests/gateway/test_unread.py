"""Answers that their callers do not read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.budget import Budget
from gateway.rest.unread import Unread


def test_the_one_that_has_not_read_for_longest_ends_first() -> None:
    unread: Unread[str] = Unread(Budget(100))

    assert unread.hold("a", 40) == []
    assert unread.hold("b", 40) == []
    assert unread.hold("a", 50) == []
    assert unread.hold("c", 30) == ["a"]
    assert len(unread) == 2


def test_one_that_is_too_large_by_itself_ends_alone() -> None:
    unread: Unread[str] = Unread(Budget(100))
    unread.hold("a", 40)

    assert unread.hold("b", 101) == ["b"]
    assert len(unread) == 1


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | st.integers(1, 130)), max_size=60))
def test_what_is_held_is_within_the_limit_and_given_back_once(steps: list[tuple[str, int | None]]) -> None:
    whole = Budget(200)
    budget = whole.part(100)
    unread: Unread[str] = Unread(budget)
    held: dict[str, int] = {}
    for connection, size in steps:
        if size is None:
            unread.drop(connection)
            held.pop(connection, None)
        else:
            ended = unread.hold(connection, size)
            held[connection] = size
            assert len(ended) == len(set(ended))
            for other in ended:
                del held[other]
        assert budget.used == whole.used == sum(held.values()) <= 100
        assert len(unread) == len(held)
