"""Which runs were cancelled, for records that come later. Pure.

Every worker of a topic hears every cancellation, and most are of requests that another worker has: memory is bounded by number
and by age. A cancellation says until when a run must have been accepted to be meant; when it came does not matter, so that a late
one leaves alone whoever sent the key again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from protocol.ports import Cancel

MAX_REMEMBERED: Final = 65_536
MAX_AGE: Final = 300.0
"""Seconds; a request that waits longer in the log than this may run although it was cancelled."""


class Cancellations:
    """Until when the runs of a ref are cancelled, and when that was last told."""

    __slots__ = ("_told",)

    def __init__(self) -> None:
        self._told: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._told)

    def note(self, cancel: Cancel, now: float) -> None:
        """Remember it from now on; of several for a ref the one that means the most runs."""
        told, before = self._told, self._told.get(cancel.ref)
        told[cancel.ref] = (cancel.until if before is None else max(cancel.until, before[0]), now)
        told.move_to_end(cancel.ref)
        while len(told) > MAX_REMEMBERED or next(iter(told.values()))[1] < now - MAX_AGE:
            told.popitem(last=False)

    def covers(self, ref: str, accepted: float) -> bool:
        """Whether the run that was accepted then is cancelled."""
        if not self._told:
            return False
        told = self._told.get(ref)
        return told is not None and accepted <= told[0]
