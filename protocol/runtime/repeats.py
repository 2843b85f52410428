"""Which of many lines that say the same are worth one more. Pure: time is an argument."""

from __future__ import annotations

import collections
from collections.abc import Hashable
from typing import Final

INTERVAL: Final = 60.0
"""Seconds between two lines that say the same."""
MAX_KEPT: Final = 256


class Repeats:
    """Lets what is said for the first time through at once, and what is repeated once in an interval.

    Args:
        interval: seconds.
    """

    __slots__ = ("_interval", "_said")

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._said: collections.OrderedDict[Hashable, tuple[float, int]] = collections.OrderedDict()

    def due(self, what: Hashable, now: float) -> int | None:
        """How often it was held back since it was let through last; None where it is held back now."""
        said, held = self._said.get(what, (None, 0))
        if said is not None and now - said < self._interval:
            self._said[what] = said, held + 1
            return None
        self._said[what] = now, 0
        self._said.move_to_end(what)
        if len(self._said) > MAX_KEPT:
            self._said.popitem(last=False)
        return held
