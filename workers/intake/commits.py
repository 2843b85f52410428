"""Commits the contiguous watermark of one consumer's partitions, soon after records are done.

Invariants: a refused commit is retried as long as its partition is owned; a late commit costs a look-up, never a record; positions
of an idle model are committed again every `AGAIN` seconds, so that the broker does not expire them while the model is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from protocol.errors import Unavailable
from protocol.ports import Consumer
from workers.instances.job import Entry
from workers.intake.offsets import OffsetTracker

INTERVAL: Final = 0.15
"""Seconds from a record being done to its commit: after a crash in between it is looked up, not run again."""

AGAIN: Final = 3600.0
"""Seconds: a fraction of any sensible `offsets.retention.minutes` (Kafka's default is a week)."""

log = structlog.get_logger(__name__)


class Commits:
    """One consumer's commits.

    Args:
        topic: for the log.
        tracker: knows what is done.
        again: seconds between commits of all positions.

    Attributes:
        consumer: set once it has joined.
    """

    def __init__(self, topic: str, tracker: OffsetTracker[int], again: float = AGAIN) -> None:
        self.consumer: Consumer | None = None
        self._topic = topic
        self._tracker = tracker
        self._loop = asyncio.get_running_loop()
        self._again = again
        self._everything = False
        self._renewal: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def done(self, entries: Sequence[Entry]) -> None:
        """The answers of these entries are in the store."""
        done = self._tracker.done
        for entry in entries:
            done(entry.partition, entry.offset, entry.token)
        self.arm()

    def arm(self) -> None:
        """Commit soon."""
        if self._renewal is None:
            self._renewal = self._loop.call_later(self._again, self._renew)
        if self._timer is None:
            self._timer = self._loop.call_later(INTERVAL, self._due)

    def _renew(self) -> None:
        self._renewal = None
        self._everything = True
        self.arm()

    def _due(self) -> None:
        self._timer = None
        if self._task is not None and not self._task.done():
            self.arm()  # one at a time: two could arrive in the wrong order
        else:
            self._task = self._loop.create_task(self.flush())

    async def flush(self) -> None:
        """Commit now."""
        positions = self._tracker.positions() if self._everything else self._tracker.commits()
        if not positions or self.consumer is None:
            return
        try:
            await self.consumer.commit(positions)
        except Unavailable as exc:
            log.debug(
                "commit refused; it is retried for partitions that are still owned", topic=self._topic, error=str(exc)
            )
            self.arm()
        else:
            self._everything = False
            self._tracker.committed(positions)

    async def close(self, *, flush: bool) -> None:
        """Stop, after a last commit if `flush`."""
        self.abandon()
        if self._task is not None:
            await asyncio.wait((self._task,))
        if flush:
            await self.flush()
        self.abandon()

    def abandon(self) -> None:
        """Commit nothing more."""
        for timer in (self._timer, self._renewal):
            if timer is not None:
                timer.cancel()
        self._timer = self._renewal = None
        if self._task is not None:
            self._task.cancel()
