"""Counts: latencies from the *intended* send time, and how each request ended.

Invariant: a latency starts when the request was due, not when it was sent; time in the generator while the server stalls counts as
the server's (no coordinated omission).
"""

from __future__ import annotations

import array
import collections
import enum
import json
from typing import Any, Final, Protocol, TextIO

import numpy as np
from hdrh.histogram import HdrHistogram

PERCENTILES: Final = (50.0, 90.0, 95.0, 99.0, 99.9)
_FOLD_AT: Final = 1 << 16
_HIGHEST_US: Final = 3_600_000_000


class Outcome(enum.StrEnum):
    """How a request ended, as its caller sees it."""

    OK = "ok"
    REJECTED = "rejected"  # 429 or 503: the server said "not now"
    FAILED = "failed"  # any other status, a broken connection, or no answer in time
    WRONG = "wrong"  # 200, but not the model's answer


class Recorder(Protocol):
    """Takes every finished request; times are seconds since the start of the load."""

    def record(self, intended: float, sent: float, finished: float, outcome: Outcome) -> None:
        """Count one request. Called once per request, on the event loop."""
        ...


class Latencies:
    """Latencies of any range at three significant digits: an HDR histogram of microseconds.

    Values are buffered and folded in by the thousand: recording costs 0.1 µs instead of the histogram's 2.6 µs.
    """

    def __init__(self) -> None:
        self._buffer = array.array("d")
        self._histogram = HdrHistogram(1, _HIGHEST_US, 3)

    def add(self, seconds: float) -> None:
        """Record one latency; negative ones count as 0."""
        self._buffer.append(seconds)
        if len(self._buffer) >= _FOLD_AT:
            self._fold()

    def _fold(self) -> None:
        micros = np.clip(np.rint(np.frombuffer(self._buffer) * 1e6), 0, _HIGHEST_US).astype(np.int64)
        for value, count in zip(*np.unique(micros, return_counts=True), strict=True):
            self._histogram.record_value(int(value), int(count))
        self._buffer = array.array("d")

    @property
    def count(self) -> int:
        """The number recorded."""
        return len(self._buffer) + int(self._histogram.get_total_count())

    def percentile_ms(self, percentile: float) -> float:
        """The latency in milliseconds that this share of the requests did not exceed; NaN when there are none."""
        self._fold()
        if not self.count:
            return float("nan")
        return float(self._histogram.get_value_at_percentile(percentile)) / 1e3

    def share_within(self, seconds: float) -> float:
        """The share of the requests that took no longer, 0..1; NaN when there are none."""
        self._fold()
        if not self.count:
            return float("nan")
        limit = self._histogram.get_highest_equivalent_value(round(seconds * 1e6))
        recorded = self._histogram.get_recorded_iterator()
        within = sum(item.count_at_value_iterated_to for item in recorded if item.value_iterated_to <= limit)
        return float(within) / self.count

    def curve_ms(self, points: int = 60) -> list[tuple[float, float]]:
        """(percentile, milliseconds) pairs for a plot, denser towards 100; empty when nothing was recorded."""
        self._fold()
        if not self.count:
            return []
        wanted = [100 * (1 - 10 ** (-4 * step / points)) for step in range(points + 1)]
        values = self._histogram.get_percentile_to_value_dict(wanted)
        return [(percentile, values[percentile] / 1e3) for percentile in wanted]

    def slowest_ms(self, share: float) -> list[float]:
        """This share of the latencies, 0..1, in milliseconds: the largest ones, in order."""
        self._fold()
        recorded = self._histogram.get_recorded_iterator()
        counts = ((item.value_iterated_to, item.count_at_value_iterated_to) for item in recorded)
        values = [value / 1e3 for value, count in counts for _ in range(count)]
        return values[len(values) - round(share * len(values)) :]

    def summary_ms(self) -> dict[str, float]:
        """The usual percentiles, the mean and the largest, in milliseconds; empty when nothing was recorded."""
        self._fold()
        if not self.count:
            return {}
        summary = {f"p{percentile:g}": self.percentile_ms(percentile) for percentile in PERCENTILES}
        summary["mean"] = float(self._histogram.get_mean_value()) / 1e3
        summary["max"] = float(self._histogram.get_max_value()) / 1e3
        return summary


class Samples:
    """Everything counted in one run. Records only requests that were due at or after `measure_from` seconds.

    Attributes:
        latency: of the requests that were answered correctly.
        unhappy: of all others, up to their refusal, failure or time-out.
        lateness: how long after its due time the generator sent each request; its own error, or a full connection pool.
        outcomes: counts by `Outcome`.
    """

    def __init__(self, measure_from: float = 0.0, rows: TextIO | None = None) -> None:
        self.latency = Latencies()
        self.unhappy = Latencies()
        self.lateness = Latencies()
        self.outcomes: collections.Counter[Outcome] = collections.Counter()
        self._measure_from = measure_from
        self._rows = rows

    def record(self, intended: float, sent: float, finished: float, outcome: Outcome) -> None:
        """See `Recorder.record`; with `rows`, also writes one JSON line per request (times in seconds)."""
        if intended < self._measure_from:
            return
        (self.latency if outcome is Outcome.OK else self.unhappy).add(finished - intended)
        self.lateness.add(sent - intended)
        self.outcomes[outcome] += 1
        if self._rows is not None:
            row = {"intended": intended, "sent": sent, "finished": finished, "outcome": outcome.value}
            self._rows.write(json.dumps(row) + "\n")

    @property
    def total(self) -> int:
        """Requests that ended in any way."""
        return self.outcomes.total()

    def summary(self) -> dict[str, Any]:
        """Counts by outcome and percentiles, ready for JSON."""
        return {
            "outcomes": {outcome.value: self.outcomes[outcome] for outcome in Outcome},
            "latency_ms": self.latency.summary_ms(),
            "unhappy_ms": self.unhappy.summary_ms(),
            "lateness_ms": self.lateness.summary_ms(),
        }
