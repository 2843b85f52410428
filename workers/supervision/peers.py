"""Which workers are dead, as one supervisor decides from the pulses that it reads. Pure: time is an argument.

Each worker is watched by `WATCHERS` of the others, chosen by rendezvous hashing among the living; so a supervisor reads a few
pulses twice a second, and those of all workers now and then (`PER_PULSE`), to learn who is there. It reads all of them as long as
somebody seems to be silent: a machine may have died with several workers, and with those that watched them.

Invariants: only a pulse that no longer changes is a sign of death, never a missing one (a store that lost its data has none);
silence counts only between two readings over which this supervisor's own pulse has changed, so that a store that is
unreachable, refuses writes or returns old data makes no worker look dead; a worker is declared dead once per incarnation and
pulse; every worker is watched by living ones within two readings of all.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Sequence
from typing import Final, Protocol, TypeVar

SILENCE: Final = 1.5
"""Seconds: three heartbeats."""
STAGGER: Final = 0.25
"""Seconds that each further supervisor waits longer, so that one acts and the others see it."""
MAX_STAGGER: Final = 1.5
MAX_GAP: Final = 1.0
"""Seconds; a longer gap between two readings does not count as silence: pulses in it were not seen."""
WATCHERS: Final = 3
"""Supervisors that watch a worker."""
PER_PULSE: Final = 0.05
"""Seconds between two readings of all pulses, for each of them: such readings cost a supervisor the same in a fleet of any size."""
DOUBTFUL: Final = 0.9
"""Seconds of silence from which all pulses are read."""


class Sign(Protocol):
    """What is read of a worker: a `Pulse`, or a whole heartbeat."""

    @property
    def worker(self) -> str:
        """Its id."""

    @property
    def incarnation(self) -> str:
        """Changes with every start."""

    @property
    def at(self) -> float:
        """When it was sent."""


S = TypeVar("S", bound=Sign)


@dataclasses.dataclass(slots=True)
class _Watched:
    """One peer.

    Attributes:
        sign: what changes with every pulse.
        reading: the number of the reading that had it last.
        silent: seconds without a change, as far as they count.
        doubtful: it had not changed from one reading of all to the next.
        declared: it was declared dead with this sign.
    """

    sign: tuple[str, float]
    reading: int
    silent: float = 0.0
    doubtful: bool = False
    declared: bool = False


class Peers:
    """Watches other workers.

    Args:
        own: this supervisor's worker, which is never declared dead.
    """

    def __init__(self, own: str) -> None:
        self._own = own
        self._own_sign: tuple[str, float] | None = None
        self._read_at = -1e18
        self._watched: dict[str, _Watched] = {}
        self._readings = 0
        self._all_at = -1e18
        self._among: frozenset[str] = frozenset()
        self._chosen: list[str] = []

    def unreadable(self) -> None:
        """The store could not be read: the time since the last reading does not count."""
        self._own_sign = None

    def wanted(self, now: float) -> list[str] | None:
        """Whose pulses to read now, this supervisor's own worker first; None for all."""
        doubtful = any(w.doubtful or w.silent >= DOUBTFUL for w in self._watched.values() if not w.declared)
        since = now - self._all_at
        if doubtful or since < 0 or since >= PER_PULSE * (1 + len(self._watched)):
            return None
        return [self._own, *self._chosen]

    def observe(self, signs: Sequence[S], now: float, wanted: Collection[str] | None = None) -> list[S]:
        """Take in one reading of the directory; returns the last sign of each worker that is newly dead.

        Args:
            signs: of these workers.
            now: seconds on any steady clock.
            wanted: as `wanted` named them; None for all workers.
        """
        self._readings += 1
        counted = self._counted(signs, now)
        present = {sign.worker: sign for sign in signs if sign.worker != self._own}
        for worker in [w for w in self._watched if w not in present and (wanted is None or w in wanted)]:
            del self._watched[worker]
        for worker, sign in present.items():
            self._note(worker, (sign.incarnation, sign.at), counted)
        if wanted is None:
            self._all_at = now
            self._choose()
        return self._newly_dead(present)

    def again(self, worker: str) -> None:
        """Nothing could be done about a worker that was declared dead: declare it again."""
        if worker in self._watched:
            self._watched[worker].declared = False

    def _note(self, worker: str, sign: tuple[str, float], counted: float) -> None:
        watched = self._watched.get(worker)
        if watched is None or watched.sign != sign:
            self._watched[worker] = _Watched(sign, self._readings)
            return
        if watched.reading == self._readings - 1:
            watched.silent += counted
        else:
            watched.doubtful = True
        watched.reading = self._readings

    def _counted(self, signs: Sequence[Sign], now: float) -> float:
        """The seconds since the last reading that count as silence."""
        own = next(((sign.incarnation, sign.at) for sign in signs if sign.worker == self._own), None)
        moved = own is not None and self._own_sign is not None and own != self._own_sign
        gap = now - self._read_at
        if moved or own is None or self._own_sign is None:
            self._own_sign, self._read_at = own, now
        return gap if moved and gap <= MAX_GAP else 0.0

    def _newly_dead(self, present: dict[str, S]) -> list[S]:
        dead = []
        for worker, watched in self._watched.items():
            silent = watched.silent >= SILENCE and not watched.declared and worker in present
            if silent and watched.silent >= SILENCE + self._stagger(worker):
                watched.declared = True
                dead.append(present[worker])
        return dead

    # --- who watches whom --------------------------------------------------------------------------------------------

    def _choose(self) -> None:
        living = self._living()
        if living != self._among:
            self._among = living
            self._chosen = [worker for worker in living if worker != self._own and watches(self._own, worker, living)]

    def _living(self) -> frozenset[str]:
        alive = [worker for worker, w in self._watched.items() if w.silent < SILENCE and not w.doubtful]
        return frozenset([self._own, *alive])

    def _stagger(self, worker: str) -> float:
        """Seconds that this supervisor leaves to the others that watch a worker."""
        living = self._living() - {worker}
        watchers = sorted(living, key=lambda watcher: rank(watcher, worker))[:WATCHERS]
        turn = sorted(watchers).index(self._own) if self._own in watchers else WATCHERS
        return min(MAX_STAGGER, STAGGER * turn)


def rank(watcher: str, worker: str) -> bytes:
    """Workers are watched by those of the lowest rank."""
    return hashlib.blake2b(f"{worker}\0{watcher}".encode(errors="replace"), digest_size=8).digest()


def watches(own: str, worker: str, living: Collection[str]) -> bool:
    """Whether one of the living is among the `WATCHERS` of a worker."""
    mine, before = rank(own, worker), 0
    for other in living:
        if other not in (own, worker) and rank(other, worker) < mine:
            before += 1
            if before == WATCHERS:
                return False
    return True
