"""When rows of the batch lane run, and how many.

Three ways lead to an instance, and each has its rule here:
- `top_up`: rows that an interactive batch leaves empty are filled as far as measured run times say that it costs it nothing;
- `batch_rows`: an instance without interactive work runs a batch of at most `longest` seconds, so that an interactive request that
  comes meanwhile waits for one such length; a size that was never measured is tried only after one at least half as large, so that
  it takes at most twice as long, and a size that took too long is left alone;
- `turn_due`: while interactive requests always wait, the lane earns a share of the instances' time, which grows with the age of
  its oldest record, and spends it in turns of one batch.

Invariants: interactive batches are formed without a look at the lane; without a share no batch of the lane begins while an
interactive request waits; time that was not asked for is not saved up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable
from typing import Final

from workers.batching.run_times import RunTimes

SMALLER: Final = 0.05
"""Share of its run time by which a batch may become longer."""
BRIEF: Final = 0.00005
"""Seconds by which any batch may become longer."""
PROBE: Final = 16
"""Of so many batches that could be topped up one is left alone, so that its own run time stays measured."""
AGED: Final = 600.0
"""Seconds after which a record has the largest share."""
LARGEST_SHARE: Final = 0.5
"""Share of a lane whose oldest record is that old, unless it has a larger one anyway."""


@dataclasses.dataclass(frozen=True, slots=True)
class LaneSettings:
    """How much the batch lane may take.

    Attributes:
        longest: seconds that one batch of the lane may run.
        share: of the instances' time while interactive requests always wait, 0 to less than 1; with 0 the lane has only idle time.
    """

    longest: float = 0.02
    share: float = 0.05


class LanePlanner:
    """Decides for one model version.

    Args:
        max_rows: of a batch.
        preferred: batch sizes that the model prefers.
        settings: how much the lane may take.
    """

    __slots__ = ("_cap", "_credit", "_max_rows", "_settings", "_since_probe", "_sizes", "_times")

    def __init__(self, max_rows: int, preferred: Iterable[int], settings: LaneSettings) -> None:
        self._max_rows = max_rows
        self._settings = settings
        powers = {1 << power for power in range(max_rows.bit_length())}
        self._sizes = sorted(size for size in powers | {max_rows, *preferred} if size <= max_rows)
        self._times = RunTimes(settings.longest)
        self._credit = 0.0
        self._cap = 2.0 * settings.longest
        self._since_probe = 0

    def observe(self, shape_class: Hashable, rows: int, seconds: float, now: float) -> None:
        """A batch ran, of either lane or of both."""
        self._times.observe(shape_class, rows, seconds, now)

    # --- rows beside an interactive batch ----------------------------------------------------------------------------

    def top_up(self, shape_class: Hashable, rows: int, waiting: int) -> int:
        """How many of the lane's `waiting` rows to add to an interactive batch of `rows`."""
        room = min(self._max_rows - rows, waiting)
        if room <= 0:
            return 0
        alone = self._times.least(shape_class, rows)
        allowed = alone + max(BRIEF, SMALLER * alone)
        size = next((size for size in self._times.measured(shape_class) if self._fits(shape_class, size, allowed)), 0)
        extra = min(size - rows, room)
        if extra <= 0:
            return 0
        self._since_probe += 1
        if self._since_probe >= PROBE:
            self._since_probe = 0
            return 0
        return extra

    def _fits(self, shape_class: Hashable, size: int, allowed: float) -> bool:
        seconds = self._times.most(shape_class, size)
        return seconds is not None and seconds <= allowed

    # --- batches of its own ------------------------------------------------------------------------------------------

    def batch_rows(self, shape_class: Hashable, held: float, now: float) -> int:
        """Rows of the next batch on an instance that holds batches of the lane of `held` seconds; 0 for none.

        On an instance that holds nothing at least one row runs, however long that takes: no smaller batch exists. If one row takes
        longer than `longest`, so may as many rows as take no longer than one. Behind a batch that it holds only one of the same
        size is staged: a smaller one would keep the instance from ever running a large one.
        """
        best, fits, longest = 0, False, self._settings.longest
        single = self._times.best(shape_class, 1)
        if single is not None and single > longest:
            return 0 if held > 0.0 else self._as_fast_as(shape_class, (1.0 + SMALLER) * single, now)
        for size in self._sizes:
            seconds = self._times.expected(shape_class, size, now)
            if seconds is not None and seconds <= longest:
                best = size
                fits = held + seconds <= longest
        if held > 0.0:
            return best if best and fits else 0
        return best or 1

    def _as_fast_as(self, shape_class: Hashable, allowed: float, now: float) -> int:
        """The largest size that takes no longer; 1 if none is known."""
        times = self._times
        return max((size for size in self._sizes if times.takes_no_longer(shape_class, size, allowed, now)), default=1)

    def expected(self, shape_class: Hashable, rows: int, now: float) -> float:
        """Seconds that a batch of the lane should take; the longest allowed if nothing was measured."""
        seconds = self._times.expected(shape_class, rows, now)
        return self._settings.longest if seconds is None else seconds

    # --- its share of busy instances ---------------------------------------------------------------------------------

    def share_at(self, age: float) -> float:
        """The lane's share while its oldest record is `age` seconds old."""
        share = self._settings.share
        if share == 0.0:
            return 0.0
        return share + (max(share, LARGEST_SHARE) - share) * min(1.0, max(0.0, age) / AGED)

    def earn(self, seconds: float, age: float) -> None:
        """An interactive batch ran while rows of the lane waited."""
        share = self.share_at(age)
        self._credit = min(self._cap, self._credit + seconds * share / (1.0 - share))

    def turn_due(self, seconds: float) -> bool:
        """Whether the lane may run a batch of so many seconds before interactive requests that wait."""
        self._cap = 2.0 * max(self._settings.longest, seconds)
        return self._settings.share > 0.0 and self._credit >= seconds

    def spend(self, seconds: float) -> None:
        """A batch of the lane runs for so long, in a turn of its own."""
        self._credit -= seconds

    def spend_idle(self, seconds: float) -> None:
        """A batch of the lane runs for so long in idle time, which counts towards its share but leaves no debt."""
        self._credit = max(min(self._credit, 0.0), self._credit - seconds)
