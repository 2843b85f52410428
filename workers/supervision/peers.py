"""Which workers are dead, as one supervisor decides from all heartbeats. Pure: time is an argument.

Invariants: only a heartbeat that no longer changes is a sign of death, never a missing one (a store that lost its data has none);
silence counts only between two readings over which this supervisor's own heartbeat has changed, so that a store that is
unreachable, refuses writes or returns old data makes no worker look dead; a worker is declared dead once per incarnation and
heartbeat.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from protocol.messages import Heartbeat

SILENCE: Final = 1.5
"""Seconds: three heartbeats."""
STAGGER: Final = 0.25
"""Seconds that each further supervisor waits longer, so that one acts and the others see it."""
MAX_STAGGER: Final = 1.5
MAX_GAP: Final = 1.0
"""Seconds; a longer gap between two readings does not count as silence: heartbeats in it were not seen."""


@dataclasses.dataclass(slots=True)
class _Watched:
    """One peer.

    Attributes:
        sign: what changes with every heartbeat.
        silent: seconds without a change, as far as they count.
        declared: it was declared dead with this sign.
    """

    sign: tuple[str, float]
    silent: float = 0.0
    declared: bool = False


class Peers:
    """Watches the other workers.

    Args:
        own: this supervisor's worker, which is never declared dead.
    """

    def __init__(self, own: str) -> None:
        self._own = own
        self._own_sign: tuple[str, float] | None = None
        self._read_at = -1e18
        self._watched: dict[str, _Watched] = {}

    def unreadable(self) -> None:
        """The store could not be read: the time since the last reading does not count."""
        self._own_sign = None

    def observe(self, heartbeats: Sequence[Heartbeat], now: float) -> list[Heartbeat]:
        """Take in one reading of the directory; returns the last heartbeat of each worker that is newly dead.

        Args:
            heartbeats: of all workers.
            now: seconds on any steady clock.
        """
        counted = self._counted(heartbeats, now)
        present = {beat.worker: beat for beat in heartbeats if beat.worker != self._own}
        for worker in [worker for worker in self._watched if worker not in present]:
            del self._watched[worker]
        for worker, beat in present.items():
            sign = (beat.incarnation, beat.at)
            watched = self._watched.get(worker)
            if watched is None or watched.sign != sign:
                self._watched[worker] = _Watched(sign)
            else:
                watched.silent += counted
        return self._newly_dead(present)

    def _counted(self, heartbeats: Sequence[Heartbeat], now: float) -> float:
        """The seconds since the last reading that count as silence."""
        own = next(((beat.incarnation, beat.at) for beat in heartbeats if beat.worker == self._own), None)
        moved = own is not None and self._own_sign is not None and own != self._own_sign
        gap = now - self._read_at
        if moved or own is None or self._own_sign is None:
            self._own_sign, self._read_at = own, now
        return gap if moved and gap <= MAX_GAP else 0.0

    def _newly_dead(self, present: dict[str, Heartbeat]) -> list[Heartbeat]:
        living = sorted([self._own, *[worker for worker, watched in self._watched.items() if watched.silent < SILENCE]])
        limit = SILENCE + min(MAX_STAGGER, STAGGER * living.index(self._own))
        dead = []
        for worker, watched in self._watched.items():
            if watched.silent >= limit and not watched.declared:
                watched.declared = True
                dead.append(present[worker])
        return dead
