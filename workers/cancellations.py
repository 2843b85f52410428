"""Which requests were cancelled before their record arrived here. Pure.

Every worker of a topic hears every cancellation, and most are of requests that another worker has: memory is bounded by number
and by age.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MAX_REMEMBERED: Final = 65_536
MAX_AGE: Final = 300.0
"""Seconds; a request that waits longer in the log than this may run although it was cancelled."""

SKEW: Final = 0.1
"""Seconds by which the clocks of a gateway and a worker may differ: each knows the store's within half a round trip."""


class Cancellations:
    """Refs cancelled ahead of their records."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._at)

    def note(self, ref: str, now: float) -> None:
        """The request was cancelled and is not here (yet)."""
        self._at[ref] = now
        self._at.move_to_end(ref)
        while len(self._at) > MAX_REMEMBERED or next(iter(self._at.values())) < now - MAX_AGE:
            self._at.popitem(last=False)

    def covers(self, ref: str, published: float) -> bool:
        """Whether this record was cancelled. One published afterwards, under the same key, runs."""
        if not self._at:
            return False
        at = self._at.get(ref)
        return at is not None and published <= at + SKEW
