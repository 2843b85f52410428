"""The fleet's clock: each process adds the measured offset to the store's clock, so that skewed hosts expire nothing."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

CERTAIN: Final = 0.05
"""A sample whose round trip took at most these seconds is accepted at once; its offset is off by at most half of that."""
TRIES: Final = 5
"""Samples of one measurement; the one with the shortest round trip counts."""
DRIFT: Final = 0.0002
"""Seconds that two clocks may drift apart in a second; crystals drift a tenth of it, virtual machines more."""


class ClockSample:
    """One measurement of how far the store's clock is ahead of the monotonic clock.

    Attributes:
        offset: seconds.
        error: seconds that the offset may be off: half of the round trip.
        at: when the sample was taken, on the monotonic clock.
    """

    __slots__ = ("at", "error", "offset")

    def __init__(self, sent: float, store: float, received: float) -> None:
        self.offset = store - (sent + received) / 2
        self.error = (received - sent) / 2
        self.at = received

    def better_than(self, held: ClockSample | None) -> bool:
        """Whether to replace the held sample: it has become less certain with age, or contradicts this one (a clock was set)."""
        if held is None:
            return True
        uncertain = held.error + (self.at - held.at) * DRIFT
        return self.error <= uncertain or abs(self.offset - held.offset) > self.error + uncertain


class Clock:
    """Seconds since the epoch on the store's clock; call it for the current time.

    It never runs backwards within one `resync` interval: it is the monotonic clock plus an offset.

    Attributes:
        stepped: seconds by which `resync` has set it forward in all, less those by which it has set it back. The difference of two
            readings, less the difference of `stepped` at them, is the time that has passed.
    """

    __slots__ = ("_held", "_monotonic", "_offset", "stepped")

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._monotonic = monotonic
        self._offset = wall() - monotonic()
        self._held: ClockSample | None = None
        self.stepped = 0.0

    def __call__(self) -> float:
        """Now."""
        return self._monotonic() + self._offset

    async def resync(self, store_time: Callable[[], Awaitable[float]]) -> None:
        """Measure the offset to the store's clock; half the round trip counts as the way back.

        After a slow reply the store is asked again, and a better sample from before is kept.
        """
        best: ClockSample | None = None
        for _ in range(TRIES):
            sent = self._monotonic()
            sample = ClockSample(sent, await store_time(), self._monotonic())
            if best is None or sample.error < best.error:
                best = sample
            if 2 * sample.error <= CERTAIN:
                break
        assert best is not None
        if best.better_than(self._held):
            self._held = best
            self.stepped += best.offset - self._offset
            self._offset = best.offset
