"""How fast rows of a model version arrive, and how fast one worker runs them, from two heartbeats and the time between. Pure.

A worker's own measurement of its batches leaves out what surrounds a batch, and other load of its machine. So while a worker always
has full batches waiting, the rows that it has run in that time say how fast it really is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Final

TAU: Final = 10.0
"""Seconds over which rates are smoothed."""
_LONG: Final = 120.0
"""Seconds of saturated work over which a speed is measured."""
_ENOUGH: Final = 3.0
"""Seconds of saturated work from which a measured speed counts."""
_SHORTEST: Final = 0.05
"""Seconds between two looks; a shorter time says nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """What one worker has done.

    Attributes:
        worker: its id and incarnation.
        executed: rows that it has run since it started.
        speed: rows per second that it predicts for full batches; 0 if unknown.
        saturated: whether full batches wait at each of its instances, and no other model's requests.
        full: rows of a full batch on each of its instances.
        at: when it said so.
    """

    worker: str
    executed: int
    speed: float = 0.0
    saturated: bool = False
    full: int = 1
    at: float = 0.0


class Pace:
    """The rates of one model version. All rates are rows per second.

    Attributes:
        arrival: rows that arrive in the interactive lane.
        growth: of the interactive lane's backlog; negative while it shrinks.
        ran: whether a row was run between the last two looks.
    """

    __slots__ = (
        "_at",
        "_known",
        "_predicted",
        "_rows",
        "_saturated_rows",
        "_saturated_seconds",
        "arrival",
        "growth",
        "ran",
    )

    def __init__(self) -> None:
        self.arrival = 0.0
        self.growth = 0.0
        self.ran = False
        self._at: float | None = None
        self._rows = (0, 0)
        self._known: dict[str, Progress] = {}
        self._predicted = 0.0
        self._saturated_rows = 0.0
        self._saturated_seconds = 0.0

    @property
    def speed(self) -> float:
        """Of one worker: as measured while it was saturated, else as last predicted; 0 if unknown."""
        if self._saturated_seconds >= _ENOUGH and self._saturated_rows > 0:
            return self._saturated_rows / self._saturated_seconds
        return self._predicted

    def predict(self, speed: float) -> None:
        """Take a worker's speed from elsewhere, if none is known."""
        self._predicted = self._predicted or max(0.0, speed)

    def observe(self, now: float, workers: Iterable[Progress], rows: int, batch_rows: int) -> None:
        """Take in the newest heartbeats.

        Args:
            now: never goes back.
            workers: live ones that serve the version.
            rows, batch_rows: unanswered, by lane.
        """
        if self._at is not None and now - self._at < _SHORTEST:
            return
        known, self._known = self._known, {worker.worker: worker for worker in workers}
        executed = sum([self._executed(known.get(worker.worker), worker) for worker in self._known.values()])
        speeds = [worker.speed for worker in self._known.values() if worker.speed > 0]
        if speeds:
            self._predicted = sum(speeds) / len(speeds)
        self.ran = executed > 0
        if self._at is not None:
            elapsed = now - self._at
            growth = (rows - self._rows[0]) / elapsed
            # Rows of the batch lane that have run are rows by which its backlog shrank; those that came were no interactive ones.
            batch = min(0, batch_rows - self._rows[1]) / elapsed
            self._smooth(executed / elapsed + growth + batch, growth, elapsed)
        self._at, self._rows = now, (rows, batch_rows)

    def _smooth(self, arrival: float, growth: float, elapsed: float) -> None:
        weight = 1.0 - math.exp(-elapsed / TAU)
        self.arrival = max(0.0, self.arrival + weight * (arrival - self.arrival))
        self.growth += weight * (growth - self.growth)

    def _executed(self, before: Progress | None, now: Progress) -> int:
        """Rows that a worker has run since its former heartbeat; what it ran before the first is not known."""
        if before is None:
            return 0
        executed = max(0, now.executed - before.executed)
        elapsed = now.at - before.at
        if elapsed >= _SHORTEST and before.saturated and now.saturated:
            kept = math.exp(-elapsed / _LONG)
            self._saturated_rows = self._saturated_rows * kept + executed
            self._saturated_seconds = self._saturated_seconds * kept + elapsed
        return executed
