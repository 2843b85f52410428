"""A child that was started ahead: Python and this package are loaded in it, so a crash costs little more than the model's load.

Invariants: there is at most one, and only while somebody holds the spares; each is given away once.
"""

from __future__ import annotations

import threading

from workers.children.process import Child


class Spares:
    """The spare child of a worker. All of it from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spare: Child | None = None
        self._holders = 0

    def hold(self) -> None:
        """Somebody has a child that may die."""
        with self._lock:
            self._holders += 1

    def release(self) -> None:
        """See `hold`; after the last one there is no spare any more."""
        with self._lock:
            self._holders -= 1
            spare = None if self._holders else self._take()
        if spare is not None:
            spare.kill()
            spare.end(0.0)

    def take(self) -> Child:
        """The spare, or a child that has only just been started."""
        with self._lock:
            spare = self._take()
        if spare is not None and spare.ended:
            spare.end(0.0)
            spare = None
        return spare or Child()

    def provide(self) -> None:
        """Have a spare from now on; called when nothing is waited for, since starting one takes the CPU for a moment."""
        with self._lock:
            if self._spare is not None and self._spare.ended:
                self._spare.end(0.0)
                self._spare = None
            if self._holders and self._spare is None:
                self._spare = Child()

    def _take(self) -> Child | None:
        spare, self._spare = self._spare, None
        return spare
