"""Peers that die together are all declared dead."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.workers.test_peers import directory


def test_two_that_die_at_the_same_moment_are_both_dead() -> None:
    d = directory()
    d.live(1, "a", "b", "c", "d")
    d.live(5, "a", "d")
    assert sorted(d.dead) == ["b", "c"]


@given(st.sets(st.sampled_from("bcdefgh")), st.sets(st.sampled_from("bcdefgh")))
def test_whoever_dies_is_declared_once_whatever_else_dies_with_it(first: set[str], second: set[str]) -> None:
    d = directory()
    everybody = set("abcdefgh")
    d.live(1, *sorted(everybody))
    d.live(6, *sorted(everybody - first))
    d.live(6, *sorted(everybody - first - second))
    assert sorted(d.dead) == sorted(first | second)
