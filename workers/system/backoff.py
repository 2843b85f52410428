"""How long to wait before restarting something that keeps dying. Pure except for its random numbers."""

from __future__ import annotations

import random
from typing import Final

FIRST: Final = 0.1
LONGEST: Final = 10.0
HEALTHY: Final = 30.0
"""Seconds of life after which the pauses start from `FIRST` again."""


class Backoff:
    """Pauses that double up to a bound, with jitter, so that a fleet does not restart in lockstep."""

    def __init__(self, dice: random.Random | None = None) -> None:
        self._dice = dice or random.Random()  # noqa: S311  # not a secret
        self._next = FIRST

    def after(self, lived: float) -> float:
        """The pause after a death, both times in seconds."""
        if lived >= HEALTHY:
            self._next = FIRST
        pause, self._next = self._next, min(LONGEST, 2 * self._next)
        return pause * self._dice.uniform(0.5, 1.0)
