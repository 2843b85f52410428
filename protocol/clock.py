"""The fleet's clock: every process corrects its own by the measured offset to the store's, so that skewed hosts expire nothing."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable


class Clock:
    """Seconds since the epoch on the store's clock; call it for now.

    It never runs backwards within one `resync` interval: it is the monotonic clock plus an offset.
    """

    __slots__ = ("_monotonic", "_offset")

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._monotonic = monotonic
        self._offset = wall() - monotonic()

    def __call__(self) -> float:
        """Now."""
        return self._monotonic() + self._offset

    async def resync(self, store_time: Callable[[], Awaitable[float]]) -> None:
        """Measure the offset to the store's clock; half the round trip is taken as the way back."""
        sent = self._monotonic()
        at = await store_time()
        self._offset = at - (sent + self._monotonic()) / 2
