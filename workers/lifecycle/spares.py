"""Raises the partitions of topics that this worker serves and owns nothing of; `partitions` decides.

Invariant: a topic that cannot be changed leaves the worker as it is: a spare, which takes over when another one leaves.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import structlog

from protocol.errors import FleetError
from protocol.heartbeat_parts import facts_of
from protocol.messages import Heartbeat, ModelState
from protocol.ports import Directory
from workers.context import Context
from workers.lifecycle.models import Models
from workers.lifecycle.partitions import SpareWatch, wanted_partitions
from workers.lifecycle.slots import Key

LIVE: Final = 2.5
"""Seconds since its last heartbeat for which another worker counts as serving."""

log = structlog.get_logger(__name__)


class PartitionRaiser:
    """Looks after the topics of one worker.

    Args:
        context: the worker's.
        models: what it serves.
        directory: knows the other workers.
        most: partitions that a topic may get.
    """

    def __init__(self, context: Context, models: Models, directory: Directory, most: int) -> None:
        self._context = context
        self._models = models
        self._directory = directory
        self._most = most
        self._watch = SpareWatch()
        self._warned: set[str] = set()

    async def look(self) -> None:
        """Once; call it every second or so.

        Raises:
            Unavailable: the directory cannot be reached.
        """
        spare = {
            intake.topic: serving.key
            for serving in self._models.serving()
            for intake in serving.intakes()
            if intake.joined.is_set() and not intake.owned
        }
        due = self._watch.due(self._context.clock(), spare)
        if due:
            beats = await self._directory.workers()
            for topic in due:
                await self._raise(topic, spare[topic], self._serving(spare[topic], beats))

    def _serving(self, key: Key, beats: Collection[Heartbeat]) -> int:
        """Live workers that serve a version, this one included."""
        since = self._context.clock() - LIVE
        return sum(
            any((load.model, load.version) == key and load.state is ModelState.READY for load in facts_of(beat.models))
            for beat in beats
            if beat.at >= since and not beat.draining
        )

    async def _raise(self, topic: str, key: Key, workers: int) -> None:
        bus = self._context.bus
        try:
            known = await bus.partitions(topic)
            wanted = wanted_partitions(known, workers, self._most)
            if wanted <= known:
                return
            count = await bus.raise_partitions(topic, wanted)
            log.info("partitions were added", topic=topic, workers=workers, before=known, partitions=count)
            await self._models.repartitioned(key, topic, count)
        except FleetError as exc:
            if topic not in self._warned:
                self._warned.add(topic)
                log.warning("partitions cannot be added", topic=topic, workers=workers, error=exc.message)
