"""The fleet's clock: every process corrects its own by the measured offset to the store's, so that skewed hosts expire nothing."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

CERTAIN: Final = 0.05
"""Seconds of round trip with which a reply is taken at once: then the offset is off by half of that at most."""
TRIES: Final = 5
"""Readings of one measurement; the shortest round trip of them counts."""
DRIFT: Final = 0.0002
"""Seconds that two clocks may come apart in a second: crystals do a tenth of it, virtual machines more."""


class ClockSample:
    """What one reply tells: how far the store's clock is ahead of the monotonic one, give or take.

    Attributes:
        offset: seconds.
        error: how far off that may be: half of the round trip.
        at: when it was taken, on the monotonic clock.
    """

    __slots__ = ("at", "error", "offset")

    def __init__(self, sent: float, store: float, received: float) -> None:
        self.offset = store - (sent + received) / 2
        self.error = (received - sent) / 2
        self.at = received

    def better_than(self, held: ClockSample | None) -> bool:
        """Whether it says more than the one that is held, which has grown old, or contradicts it: then a clock was set."""
        if held is None:
            return True
        uncertain = held.error + (self.at - held.at) * DRIFT
        return self.error <= uncertain or abs(self.offset - held.offset) > self.error + uncertain


class Clock:
    """Seconds since the epoch on the store's clock; call it for now.

    It never runs backwards within one `resync` interval: it is the monotonic clock plus an offset.
    """

    __slots__ = ("_held", "_monotonic", "_offset")

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._monotonic = monotonic
        self._offset = wall() - monotonic()
        self._held: ClockSample | None = None

    def __call__(self) -> float:
        """Now."""
        return self._monotonic() + self._offset

    async def resync(self, store_time: Callable[[], Awaitable[float]]) -> None:
        """Measure the offset to the store's clock; half the round trip is taken as the way back.

        A reply that took long tells little, so the store is asked again, and what was known before is kept where that is better.
        """
        best: ClockSample | None = None
        for _ in range(TRIES):
            sent = self._monotonic()
            reading = ClockSample(sent, await store_time(), self._monotonic())
            if best is None or reading.error < best.error:
                best = reading
            if 2 * reading.error <= CERTAIN:
                break
        assert best is not None
        if best.better_than(self._held):
            self._held = best
            self._offset = best.offset
