"""How long to wait before starting something again that keeps dying. Pure but for its dice."""

from __future__ import annotations

import random
from typing import Final

FIRST: Final = 0.1
LONGEST: Final = 10.0
HEALTHY: Final = 30.0
"""Seconds of life after which a death counts as the first."""


class Backoff:
    """Pauses that double up to a bound, with jitter, so that a fleet does not restart in step."""

    def __init__(self, dice: random.Random | None = None) -> None:
        self._dice = dice or random.Random()  # noqa: S311  # not a secret
        self._next = FIRST

    def after(self, lived: float) -> float:
        """The pause, in seconds, after something died that had lived so long."""
        if lived >= HEALTHY:
            self._next = FIRST
        pause, self._next = self._next, min(LONGEST, 2 * self._next)
        return pause * self._dice.uniform(0.5, 1.0)
