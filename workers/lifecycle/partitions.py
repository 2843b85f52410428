"""When a topic gets more partitions: workers that own none of it have been there for a while. Pure.

A partition is read by one worker. A group divides partitions evenly, so a member that owns none means that there are more workers
than partitions, and only such members look. After `PATIENCE` seconds one asks who serves the version, and the topic gets twice as
many partitions as there are workers, up to a bound: the next few workers then need no further change.

Invariants: partitions are never taken away; a member that owns a partition never asks; a topic is asked about at most once in
`PATIENCE` seconds by one worker; several workers that decide at once want the same number if they see the same workers.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

PATIENCE: Final = 10.0
"""Seconds for which a worker owns nothing before it asks: a worker that replaces another one is soon no spare any more."""
PER_WORKER: Final = 2
"""Partitions for each worker, where there are too few."""


def wanted_partitions(partitions: int, workers: int, most: int) -> int:
    """How many partitions a topic is to have: as many as it has, unless there are more workers than partitions.

    Args:
        partitions: that it has.
        workers: that serve it.
        most: partitions that a topic may get.
    """
    if workers <= partitions:
        return partitions
    return max(partitions, min(PER_WORKER * workers, most))


class SpareWatch:
    """Notes since when this worker owns no partition of which topics."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def due(self, now: float, spare: Collection[str]) -> list[str]:
        """The topics to ask about now.

        Args:
            now: seconds on any steady clock.
            spare: topics that this worker is assigned no partition of.
        """
        self._since = {topic: self._since.get(topic, now) for topic in spare}
        due = [topic for topic, since in self._since.items() if now - since >= PATIENCE]
        self._since.update(dict.fromkeys(due, now))
        return due
