"""The windows in which a call counts."""

from __future__ import annotations

from loadtest.disturbance import FIRST, MINUTE, Windows
from loadtest.samples import Outcome


def test_a_call_of_the_first_seconds_counts_in_both_windows_and_a_later_one_in_the_whole() -> None:
    windows = Windows(MINUTE)
    for due in (0.0, FIRST - 0.001, FIRST, MINUTE - 0.001):
        windows.record(due, due, due + 0.002, Outcome.OK)
    assert {length: samples.total for length, samples in windows.items()} == {MINUTE: 4, FIRST: 2}


def test_seconds_fewer_than_the_first_ones_are_one_window() -> None:
    assert list(Windows(FIRST / 2)) == [FIRST / 2]
