"""The histogram of answers in the totals: exact counts, quantiles that are at most a fifth off, and no clock that spoils them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.answer_times import BOUNDS, NAMES, between, bucket, histogram, quantile
from protocol.totals import add

seconds = st.floats(1.2e-4, 400.0)


def test_the_buckets_stay_as_stores_hold_them() -> None:
    assert len(BOUNDS) == 89
    assert BOUNDS[:5] == (0.0001, 0.0001189, 0.0001414, 0.0001682, 0.0002)
    assert BOUNDS[-1] == 419.4
    assert list(BOUNDS) == sorted(set(BOUNDS))
    assert (NAMES[0], NAMES[-1]) == ("t0", "t89")


@pytest.mark.parametrize(
    ("accepted", "now", "name"),
    [
        (0.0, 5.0, ""), (100.0, 99.0, "t0"), (100.0, 100.0, "t0"), (100.0, 1e9, "t89"), (1.0, 1.0 + BOUNDS[3] * 0.99, "t3"),
        (1.0, math.inf, "t89"),
    ],
)  # fmt: skip
def test_a_clock_that_was_set_and_an_unknown_start_do_no_harm(accepted: float, now: float, name: str) -> None:
    assert bucket(accepted, now) == name


def test_other_totals_are_not_taken_for_buckets() -> None:
    totals = {"ok": 3, "t": 1, "t90": 1, "t-1": 1, "t01": 1, "throttled": 1, "rows": 7, "t12": 2, "t3": 1, "t4": 0}
    assert histogram(totals) == [(3, 1), (12, 2)]


def test_without_answers_there_is_no_quantile() -> None:
    assert quantile([], 0.5) is None
    assert quantile([(3, 0)], 0.5) is None
    assert quantile([(len(BOUNDS), 5)], 0.5) == BOUNDS[-1]


@given(st.lists(seconds, min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_at_most_a_fifth_off(times: list[float], share: float) -> None:
    counts: dict[str, int] = {}
    for each in times:
        add(counts, {bucket(1000.0, 1000.0 + each): 1})
    found = quantile(histogram(counts), share)
    assert found is not None
    exact = float(np.quantile(times, share, method="inverted_cdf"))
    assert exact / 1.2 <= found <= exact * 1.2


def test_what_was_counted_between_two_readings() -> None:
    assert between([(1, 5), (2, 7)], [(1, 5), (2, 9), (4, 1)]) == [(2, 2), (4, 1)]
    assert between([(1, 5)], []) == []
    assert between([(1, 5)], [(1, 2)]) == []


@given(st.lists(st.tuples(seconds, st.integers(0, 3)), max_size=100))
def test_gateways_and_workers_add_up_to_the_whole(times: list[tuple[float, int]]) -> None:
    whole: dict[str, int] = {}
    parts: list[dict[str, int]] = [{}, {}, {}, {}]
    for each, part in times:
        name = bucket(50.0, 50.0 + each)
        add(whole, {name: 1})
        add(parts[part], {name: 1})
    merged: dict[str, int] = {}
    for part_counts in parts:
        add(merged, part_counts)
    assert histogram(merged) == histogram(whole)
