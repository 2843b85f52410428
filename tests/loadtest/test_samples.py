from __future__ import annotations

import io
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.samples import Latencies, Outcome, Samples


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1e-6, 100), min_size=1, max_size=300))
def test_percentiles_are_within_a_thousandth_of_the_exact_ones(values: list[float]) -> None:
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    for percentile in (0, 50, 90, 99, 100):
        rank = max(1, int(percentile / 100 * len(values) + 0.5))  # the nearest rank, as HDR histograms define it
        exact = sorted(values)[rank - 1]
        assert latencies.percentile_ms(percentile) == pytest.approx(exact * 1e3, rel=2e-3, abs=2e-3)
    assert latencies.count == len(values)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=100), st.floats(1e-3, 10))
def test_share_within_counts_what_is_not_slower(values: list[float], limit: float) -> None:
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    surely = sum(value < limit * 0.997 for value in values) / len(values)
    at_most = sum(value < limit * 1.003 + 2e-6 for value in values) / len(values)
    assert surely - 1e-9 <= latencies.share_within(limit) <= at_most + 1e-9


def test_many_values_are_folded_without_losing_any() -> None:
    latencies = Latencies()
    for index in range(200_000):
        latencies.add(index * 1e-6)
    assert latencies.count == 200_000
    assert latencies.percentile_ms(50) == pytest.approx(100, rel=2e-3)
    percentiles = [percentile for percentile, _ in latencies.curve_ms()]
    assert percentiles == sorted(percentiles)


def test_nothing_recorded_is_not_zero() -> None:
    latencies = Latencies()
    assert math.isnan(latencies.percentile_ms(50))
    assert math.isnan(latencies.share_within(1.0))
    assert latencies.summary_ms() == {}
    assert latencies.curve_ms() == []


def test_latency_counts_from_the_intended_time_and_warm_up_does_not_count() -> None:
    rows = io.StringIO()
    samples = Samples(measure_from=1.0, rows=rows)
    samples.record(0.5, 0.5, 0.6, Outcome.OK)
    samples.record(1.0, 3.0, 3.25, Outcome.OK)
    samples.record(2.0, 2.0, 2.1, Outcome.REJECTED)
    assert samples.total == 2
    assert samples.latency.percentile_ms(50) == pytest.approx(2250, rel=1e-3)
    assert samples.unhappy.percentile_ms(50) == pytest.approx(100, rel=1e-3)
    assert samples.lateness.percentile_ms(100) == pytest.approx(2000, rel=1e-3)
    assert samples.summary()["outcomes"] == {"ok": 1, "rejected": 1, "failed": 0, "wrong": 0}
    assert json.loads(rows.getvalue().splitlines()[0]) == {
        "intended": 1.0,
        "sent": 3.0,
        "finished": 3.25,
        "outcome": "ok",
    }
