"""How often a repeated log line is written. Pure: time is an argument."""

from __future__ import annotations

import collections
from collections.abc import Hashable
from typing import Final

INTERVAL: Final = 60.0
"""Seconds between two equal lines."""
MAX_KEPT: Final = 256


class Repeats:
    """Lets a new line pass at once, and an equal one again after an interval.

    Args:
        interval: seconds.
    """

    __slots__ = ("_interval", "_said")

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._said: collections.OrderedDict[Hashable, tuple[float, int]] = collections.OrderedDict()

    def due(self, what: Hashable, now: float) -> int | None:
        """How many equal lines were suppressed since the last one that passed; None if this one is suppressed."""
        said, held = self._said.get(what, (None, 0))
        if said is not None and now - said < self._interval:
            self._said[what] = said, held + 1
            return None
        self._said[what] = now, 0
        self._said.move_to_end(what)
        if len(self._said) > MAX_KEPT:
            self._said.popitem(last=False)
        return held


EVERY: Final = 4.0
"""Seconds between two lines about something that lasts, in its first minute."""
EVERY_LATER: Final = 20.0
"""Seconds between two lines after it."""
_MINUTE: Final = 60.0


def next_report(elapsed: float) -> float:
    """When the next line about something that lasts is due, after `elapsed`; both in seconds since it began."""
    every = EVERY if elapsed < _MINUTE else EVERY_LATER
    return (elapsed // every + 1) * every


BURST: Final = 20
"""Lines of one kind that pass at once."""
REFILL: Final = 5.0
"""Seconds after which one more passes."""


class Flood:
    """Lets every line pass while there are few of its kind, and a line now and then when there are many."""

    __slots__ = ("_kinds",)

    def __init__(self) -> None:
        self._kinds: collections.OrderedDict[Hashable, tuple[float, float, int]] = collections.OrderedDict()

    def held(self, kind: Hashable, now: float) -> int | None:
        """How many of this kind were suppressed since the last one that passed; None if this one is suppressed."""
        room, since, held = self._kinds.pop(kind, (float(BURST), now, 0))
        room = min(float(BURST), room + max(0.0, now - since) / REFILL)
        passes = room >= 1.0
        self._kinds[kind] = (room - 1.0, now, 0) if passes else (room, now, held + 1)
        if len(self._kinds) > MAX_KEPT:
            self._kinds.popitem(last=False)
        return held if passes else None
