"""Counts of compared answers, for the metrics. Pure."""

from __future__ import annotations

from typing import Final

from gateway.aliases.comparison import Agreement
from gateway.counters import Buckets

BOUNDS: Final = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)

Pair = tuple[str, str, str]
"""Model, version that answered the caller, shadow version."""


class ShadowCounts:
    """What became of copied calls.

    Attributes:
        results: by pair of versions and result: how the answers agreed, `failed` if the shadow version gave none, `dropped` if
            the call was not copied or compared for want of room.
        absolute, relative: the largest difference of each pair of answers.
    """

    __slots__ = ("absolute", "relative", "results")

    def __init__(self) -> None:
        self.results: dict[tuple[Pair, str], int] = {}
        self.absolute: dict[Pair, Buckets] = {}
        self.relative: dict[Pair, Buckets] = {}

    def count(self, pair: Pair, result: str) -> None:
        """Count one call."""
        self.results[pair, result] = self.results.get((pair, result), 0) + 1

    def agreed(self, pair: Pair, agreement: Agreement) -> None:
        """Count one comparison."""
        self.count(pair, agreement.result)
        if agreement.absolute is not None and agreement.relative is not None:
            self.absolute.setdefault(pair, Buckets(BOUNDS)).observe(agreement.absolute)
            self.relative.setdefault(pair, Buckets(BOUNDS)).observe(agreement.relative)
