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
