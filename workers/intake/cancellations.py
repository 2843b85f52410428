"""Remembers cancellations for records that are fetched later. Pure.

Every worker of a topic receives every cancellation, and most concern requests of other workers: memory is bounded by number
and by age. A cancellation covers the runs that were accepted up to a time, whenever it arrives: a late one does not cover a request
that was sent again under the same key.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from protocol.ports import Cancel

MAX_REMEMBERED: Final = 65_536
MAX_AGE: Final = 300.0
"""Seconds; a request that waits longer in the log than this may run although it was cancelled."""


class Cancellations:
    """By ref: until when its runs are cancelled, and when that was last received."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def note(self, cancel: Cancel, now: float) -> None:
        """Remember it; of several for a ref, the one that covers the most runs."""
        until, before = self._until, self._until.get(cancel.ref)
        until[cancel.ref] = (cancel.until if before is None else max(cancel.until, before[0]), now)
        until.move_to_end(cancel.ref)
        while len(until) > MAX_REMEMBERED or next(iter(until.values()))[1] < now - MAX_AGE:
            until.popitem(last=False)

    def covers(self, ref: str, accepted: float) -> bool:
        """Whether the run that was accepted at that time is cancelled."""
        if not self._until:
            return False
        until = self._until.get(ref)
        return until is not None and accepted <= until[0]
