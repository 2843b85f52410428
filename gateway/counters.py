"""Counters for the hot path: plain integers, no label lookup. `metrics` exports them to Prometheus. Pure."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Final

SECONDS: Final = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0,
    30.0, 60.0,
)  # fmt: skip


class Buckets:
    """One histogram: observations per bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, number of values up to it), cumulative as Prometheus expects them."""
        rows: list[tuple[str, float]] = []
        count = 0
        for bound, here in zip((*self._bounds, None), self._counts, strict=True):
            count += here
            rows.append(("+Inf" if bound is None else str(bound), float(count)))
        return rows


class Counters:
    """Counters of one model version: answers by code ("OK" or an error's), and their latencies.

    Attributes:
        digests: number of different sets of files that live workers serve under this version; should be 1.
    """

    __slots__ = ("codes", "digests", "seconds")

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self.digests = 0
        self.seconds = Buckets()

    def count(self, code: str, seconds: float) -> None:
        """Count a call that was answered `seconds` after it had been read."""
        codes = self.codes
        codes[code] = codes.get(code, 0) + 1
        self.seconds.observe(seconds)
