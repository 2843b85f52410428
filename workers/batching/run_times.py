"""How long batches ran: measured seconds by shape class and exact number of rows.

`latency` predicts from averages per power of two, which hide what a larger batch of the same power costs; the batch lane needs the
difference. A size between two measured ones takes no less than the smaller and no more than the larger one: so the bounds here hold
for models that pad to certain sizes, too.

On a busy machine single runs take many times as long as the model needs. So a size is over the limit only if the best of its last
`RECENT` runs is, or if these took twice as long together as the limit allows.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Hashable
from typing import Final

WEIGHT: Final = 0.2
"""Weight of the newest run in the moving average."""
MAX_SHAPES: Final = 64
MAX_SIZES: Final = 32
"""Sizes kept per shape class; those not seen for longest are forgotten."""
RECENT: Final = 8
RETRY: Final = 2.0
"""Seconds until a size that is over the limit may be tried again; twice as long after each further time."""
MAX_DOUBLINGS: Final = 8
TRIES: Final = 3
"""Runs before a size is believed to take longer than a smaller one."""
NOISE: Final = 1.5
"""How many times as long such a run may take."""
FORGOTTEN: Final = 10.0
"""Seconds without a run after which that is not believed any more."""


@dataclasses.dataclass(slots=True)
class _Time:
    """One size.

    Attributes:
        seconds: the moving average.
        recent: the last runs.
        at: when the last one ended.
        retry_at: if it is over the limit: when it counts as unmeasured again; else 0.
        excesses: how often in a row it was tried and found over the limit.
    """

    seconds: float
    recent: collections.deque[float]
    at: float
    retry_at: float = 0.0
    excesses: int = 0

    def is_over(self, limit: float) -> bool:
        """Whether such a batch takes longer."""
        return min(self.recent) > limit or sum(self.recent) > 2 * RECENT * limit


class RunTimes:
    """Measured run times of one model version.

    Args:
        limit: seconds that a batch may run.
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
        if known is None or math.isinf(seconds) or math.isinf(known.seconds) or 0.0 < known.retry_at <= now:
            updated = _Time(seconds, collections.deque((seconds,), RECENT), now)
        else:
            known.recent.append(seconds)
            updated = _Time(known.seconds + WEIGHT * (seconds - known.seconds), known.recent, now, known.retry_at)
        before = 0 if known is None else known.excesses
        if not updated.is_over(self._limit):
            updated.retry_at = 0.0
        elif updated.retry_at <= now:
            updated.excesses = before + 1
            updated.retry_at = now + RETRY * 2 ** min(before, MAX_DOUBLINGS)
        else:
            updated.excesses = before
        return updated

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
        if known is not None and (not known.retry_at or now < known.retry_at):
            return max(known.recent) if known.retry_at else min(known.recent)
        return self._guess(sizes, rows)

    def best(self, shape_class: Hashable, rows: int) -> float | None:
        """Seconds of the best recent run of `rows`, whatever the limit is; None if none was measured."""
        known = self._shapes.get(shape_class, {}).get(rows)
        return None if known is None else min(known.recent)

    def takes_no_longer(self, shape_class: Hashable, rows: int, allowed: float, now: float) -> bool:
        """Whether a batch of `rows` may be taken to run within `allowed` seconds, whatever the limit is.

        One run on a busy machine says little, and a size that is not chosen is not measured again: so a size is ruled out only by
        `TRIES` runs, or one that took `NOISE` times as long, and not for ever.
        """
        sizes = self._shapes.get(shape_class, {})
        known = sizes.get(rows)
        if known is None or now - known.at > FORGOTTEN:
            seconds = self._guess(sizes, rows)
            return seconds is not None and seconds <= allowed
        return min(known.recent) <= (NOISE * allowed if len(known.recent) < TRIES else allowed)

    @staticmethod
    def _guess(sizes: dict[int, _Time], rows: int) -> float | None:
        guesses = []
        below = sorted((size for size in sizes if size < rows), reverse=True)[:2]
        if below and rows <= 2 * below[0]:
            guesses.append(min(sizes[below[0]].recent) + (rows - below[0]) * _slope(sizes, *below))
        larger = min((size for size in sizes if size > rows), default=None)
        if larger is not None:
            guesses.append(min(sizes[larger].recent))
        return min(guesses, default=None)


def _slope(sizes: dict[int, _Time], size: int, smaller: int | None = None) -> float:
    """Seconds that each further row takes; no more than a row's share."""
    if smaller is None:
        return 0.0
    seconds = min(sizes[size].recent)
    rise = (seconds - min(sizes[smaller].recent)) / (size - smaller)
    return min(max(0.0, rise), seconds / size)
