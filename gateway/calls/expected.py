"""When a refused call may come again: once the calls before it are answered, or its model has a worker.

The same backlog and time to drain as scaling and `penstock status` show, of the workers' last heartbeats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.routing.capacity import Capacity
from gateway.scaling.drain import time_to_drain

MAX_TOPICS: Final = 1024
"""Topics that are remembered until the next heartbeats."""


class ExpectedWait:
    """Predicts for one gateway.

    Args:
        capacity: what is known of the workers.
        live: seconds after its last heartbeat for which a worker counts as live.
        to_worker: seconds until a topic without a live worker has one; None if that is not known.
        clock: the fleet's.
    """

    def __init__(
        self,
        capacity: Capacity,
        live: float,
        to_worker: Callable[[str], float | None],
        clock: Callable[[], float],
    ) -> None:
        self._capacity = capacity
        self._live = live
        self._to_worker = to_worker
        self._clock = clock
        self._revision = -1
        self._known: dict[str, tuple[int, float] | None] = {}

    def seconds(self, topic: str, waiting: int) -> float | None:
        """Seconds until the unanswered requests of a topic are answered; None if that is not known.

        Args:
            waiting: calls that wait at this gateway: their rows may not be in a heartbeat yet.
        """
        known = self._sums(topic)
        if known is None:
            return self._to_worker(topic)
        rows, rate = known
        return time_to_drain(max(rows, waiting), rate, 0.0, 0.0)

    def _sums(self, topic: str) -> tuple[int, float] | None:
        """Rows that wait at the live workers, and rows per second of all of them; None without one."""
        if self._revision != self._capacity.revision or len(self._known) >= MAX_TOPICS:
            self._revision, self._known = self._capacity.revision, {}
        if topic not in self._known:
            now = self._clock()
            live = [
                load for load in self._capacity.workers(topic) if not load.draining and abs(now - load.at) <= self._live
            ]
            sums = sum(load.rows for load in live), sum(load.speed for load in live)
            self._known[topic] = sums if live else None
        return self._known[topic]
