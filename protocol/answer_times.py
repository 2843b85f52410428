"""How long callers waited for their answers: a histogram that is a part of the totals, so that it is the fleet's. Pure.

A time is from the gateway's acceptance of a request, or the producer's timestamp, until its answer is ready: the wait in the log
and in the worker's queue, and the run. What follows is not in it: storing the answer, its way to the caller. Each answer with
outputs to an interactive request is counted, cached ones too; records of the batch lane are not, as nobody waits for them.

The histogram is one name per bucket (`t0`, `t1`, …) with the number of answers in it, so that stores add it up as they do all
totals: it is exact whatever is killed, the same at every gateway, and the difference of two readings is the histogram of the time
between them. Bounds are a fourth of a power of two apart: `quantile` is at most a fifth off.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

_LEAST: Final = 1e-4
_PER_DOUBLING: Final = 4
_DOUBLINGS: Final = 22
BOUNDS: Final = tuple(
    float(f"{_LEAST * 2 ** (place / _PER_DOUBLING):.4g}") for place in range(_PER_DOUBLING * _DOUBLINGS + 1)
)
"""Upper bounds of the buckets in seconds, from 100 µs to 7 minutes; one more bucket has what took longer. Stores hold names that
mean them, so they stay as they are."""
NAMES: Final = tuple(f"t{place}" for place in range(len(BOUNDS) + 1))
"""Of the buckets, in the totals."""
_PLACES: Final = {name: place for place, name in enumerate(NAMES)}


def bucket(accepted: float, now: float) -> str:
    """The name of the bucket of an answer; "" if it is not known when its request was accepted.

    Args:
        accepted: seconds since the epoch, 0 for unknown. A clock that was set back does not make time negative.
        now: seconds since the epoch, when the answer is ready.
    """
    return NAMES[bisect.bisect_left(BOUNDS, now - accepted)] if accepted else ""


def histogram(totals: Mapping[str, int]) -> list[tuple[int, int]]:
    """(place of the bucket, answers in it), ascending, without empty ones."""
    return sorted((_PLACES[name], count) for name, count in totals.items() if name in _PLACES and count > 0)


def between(before: Iterable[tuple[int, int]], now: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """What was counted between two readings; a count that fell counts as nothing."""
    former = dict(before)
    return [(place, grown) for place, count in now if (grown := count - former.get(place, 0)) > 0]


def quantile(counts: Sequence[tuple[int, int]], share: float) -> float | None:
    """Seconds within which this share of the answers was ready; None without answers.

    Within a bucket answers are taken to be spread evenly. Of the last bucket only its lower bound is known.

    Args:
        counts: as of `histogram`, or the differences of two.
        share: 0 to 1.
    """
    left = share * sum([count for _, count in counts])
    for place, count in counts:
        if left <= count and count:
            low = BOUNDS[place - 1] if place else 0.0
            high = BOUNDS[place] if place < len(BOUNDS) else low
            return low + (high - low) * max(left, 0.0) / count
        left -= count
    return None
