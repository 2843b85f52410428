"""How long batches ran: measured seconds by shape class and exact number of rows.

`latency` predicts from averages per power of two, which hide what a larger batch of the same power costs; the batch lane needs the
difference. A size between two measured ones takes no less than the smaller and no more than the larger one: so the bounds here hold
for models that pad to certain sizes, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Final

WEIGHT: Final = 0.2
"""Weight of the newest run in the moving average."""
MAX_SHAPES: Final = 64
MAX_SIZES: Final = 32
"""Sizes kept per shape class; those not seen for longest are forgotten."""
RETRY: Final = 10.0
"""Seconds until a size that ran longer than the limit may be tried again; twice as long after each further time."""
MAX_DOUBLINGS: Final = 6


@dataclasses.dataclass(slots=True)
class _Time:
    """One size.

    Attributes:
        seconds: the average.
        retry_at: if it is over the limit: when it counts as unmeasured again.
        excesses: consecutive runs over the limit.
    """

    seconds: float
    retry_at: float = 0.0
    excesses: int = 0


class RunTimes:
    """Measured run times of one model version.

    Args:
        limit: seconds; a run above it counts at once and in full.
    """

    __slots__ = ("_limit", "_shapes")

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._shapes: dict[Hashable, dict[int, _Time]] = {}

    def observe(self, shape_class: Hashable, rows: int, seconds: float, now: float) -> None:
        """A batch of `rows` ran for `seconds`."""
        sizes = self._shapes.pop(shape_class, None)
        if sizes is None:
            if len(self._shapes) >= MAX_SHAPES:
                del self._shapes[next(iter(self._shapes))]
            sizes = {}
        self._shapes[shape_class] = sizes
        known = sizes.pop(rows, None)
        if known is None and len(sizes) >= MAX_SIZES:
            del sizes[next(iter(sizes))]
        sizes[rows] = self._updated(known, seconds, now)

    def _updated(self, known: _Time | None, seconds: float, now: float) -> _Time:
        if seconds > self._limit:
            excesses = 1 if known is None else known.excesses + 1
            return _Time(seconds, now + RETRY * 2 ** min(excesses - 1, MAX_DOUBLINGS), excesses)
        if known is None or known.seconds > self._limit:
            return _Time(seconds)
        return _Time(known.seconds + WEIGHT * (seconds - known.seconds))

    @staticmethod
    def _slope(sizes: dict[int, _Time], size: int, smaller: int | None = None) -> float:
        """Seconds that each further row takes; no more than a row's share."""
        if smaller is None:
            return 0.0
        rise = (sizes[size].seconds - sizes[smaller].seconds) / (size - smaller)
        return min(max(0.0, rise), sizes[size].seconds / size)

    def exactly(self, shape_class: Hashable, rows: int) -> float | None:
        """Seconds measured for this size; None if it never ran."""
        known = self._shapes.get(shape_class, {}).get(rows)
        return None if known is None else known.seconds

    def most(self, shape_class: Hashable, rows: int) -> float | None:
        """Seconds that a batch of `rows` takes at most: those of the next measured size; None if none is as large."""
        sizes = self._shapes.get(shape_class, {})
        size = min((size for size in sizes if size >= rows), default=None)
        return None if size is None else sizes[size].seconds

    def least(self, shape_class: Hashable, rows: int) -> float:
        """Seconds that a batch of `rows` takes at least: those of the next smaller measured size; 0 if none is as small."""
        sizes = self._shapes.get(shape_class, {})
        size = max((size for size in sizes if size <= rows), default=None)
        return 0.0 if size is None else sizes[size].seconds

    def measured(self, shape_class: Hashable) -> list[int]:
        """The measured sizes, the largest first."""
        return sorted(self._shapes.get(shape_class, ()), reverse=True)

    def expected(self, shape_class: Hashable, rows: int, now: float) -> float | None:
        """Seconds that a batch of `rows` should take; None if nothing says so.

        An unmeasured size is assumed to continue the slope of the two sizes below it, if the larger is at least half of it, or to
        take as long as the next larger size, whichever is less. A single size below says nothing of a slope: it is tried.
        """
        sizes = self._shapes.get(shape_class)
        if sizes is None:
            return None
        known = sizes.get(rows)
        if known is not None and (known.seconds <= self._limit or now < known.retry_at):
            return known.seconds
        guesses = []
        below = sorted((size for size in sizes if size < rows), reverse=True)[:2]
        if below and rows <= 2 * below[0]:
            guesses.append(sizes[below[0]].seconds + (rows - below[0]) * self._slope(sizes, *below))
        larger = min((size for size in sizes if size > rows), default=None)
        if larger is not None:
            guesses.append(sizes[larger].seconds)
        return min(guesses, default=None)
