"""A sweep looks up every call that is due, and no other."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gateway.calls.pending import Call, Pending

SWEEP_AFTER = 1.0


def waiting(*refs: str, at: float = 0.0, pending: Pending | None = None) -> Pending:
    table = Pending(SWEEP_AFTER) if pending is None else pending  # an empty one is false
    for name in refs:
        table.register(Call(name, "t", "m", "1", "", 1, math.inf, 0.0, lambda reply: None), at)
    return table


def test_all_that_are_due_together_are_looked_up() -> None:
    assert waiting("a", "b", "c").sweep(SWEEP_AFTER) == ["a", "b", "c"]


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 5)), max_size=20), st.integers(0, 8))
def test_who_is_due_is_looked_up_and_nobody_else(registered: list[tuple[str, int]], now: int) -> None:
    pending = Pending(SWEEP_AFTER)
    for name, at in sorted(registered, key=lambda pair: pair[1]):
        waiting(name, at=at, pending=pending)
    assert set(pending.sweep(now)) == {name for name, at in registered if at + SWEEP_AFTER <= now}
    assert pending.sweep(now) == []
