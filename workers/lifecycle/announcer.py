"""Announces this worker's model versions to the gateways, on the compacted catalogue topic.

Invariant: a version that another worker serves is only ever announced as READY, unless all workers are told to unload it.
"""

from __future__ import annotations

import contextlib
from typing import Final

import structlog

from protocol.errors import NotFound, Unavailable
from protocol.heartbeat_codec import encode_announcement
from protocol.heartbeat_parts import facts_of
from protocol.messages import Announcement, ModelState
from protocol.ports import Directory, OutRecord, Published
from workers.context import Context

LIVE: Final = 2.5
"""Seconds since its last heartbeat for which another worker counts as serving."""
RENEW: Final = 30.0
"""Seconds between checks that the topic still has the last announcement."""
WITHHOLD: Final = 10.0
"""Seconds for which an announcement is withheld while another worker serves the version, in case that worker unloads it too."""

log = structlog.get_logger(__name__)


class Announcer:
    """Publishes announcements, now or once no other worker serves the version.

    Args:
        context: the worker's.
        directory: knows which other workers serve a version.
    """

    def __init__(self, context: Context, directory: Directory) -> None:
        self._context = context
        self._directory = directory
        self._withheld: dict[tuple[str, str], Announcement] = {}
        self._ready: dict[tuple[str, str], Announcement] = {}
        self._newest: tuple[Published, bytes] | None = None
        self._looked = context.clock()

    async def announce(self, entry: Announcement, *, everywhere: bool = False) -> None:
        """Publish the announcement, or withhold it for `look_again`.

        Args:
            everywhere: all workers unload the version, so that others' heartbeats say nothing of the future.
        """
        key = (entry.model, entry.version)
        self._withheld.pop(key, None)
        if not everywhere and entry.state is not ModelState.READY and await self._served_elsewhere(entry):
            self._withheld[key] = entry
        else:
            await self._publish(entry)

    async def look_again(self) -> None:
        """Publish withheld announcements of versions that no other worker serves any more.

        Workers that follow one repository unload at about the same time, each still seeing the other's last heartbeat.
        """
        for key, entry in list(self._withheld.items()):
            if entry.at + WITHHOLD < self._context.clock():
                del self._withheld[key]
            elif not await self._served_elsewhere(entry) and self._withheld.pop(key, None) is entry:
                await self._publish(entry)
        if (now := self._context.clock()) - self._looked >= RENEW:
            self._looked = now
            with contextlib.suppress(Unavailable):
                await self.renew()

    async def renew(self) -> None:
        """Announce all READY versions again if the topic lost them: it was deleted, or created anew by another process.

        Compaction removes an announcement only when a later one replaces it; a repeated announcement is harmless.

        Raises:
            Unavailable: the broker does not answer.
        """
        if self._newest is None:
            return
        place, name = self._newest
        record = await self._context.bus.read_record(place.topic, place.partition, place.offset)
        if record is None or record.key != name:
            log.warning("the catalogue topic lost the announcements; they are published again", models=len(self._ready))
            for entry in tuple(self._ready.values()):
                await self._publish(entry)

    async def _publish(self, entry: Announcement) -> None:
        context, topic = self._context, self._context.names.catalogue_topic
        name, value = encode_announcement(entry)

        async def publish() -> Published:
            records = [OutRecord(value, key=name)]
            try:
                return await context.bus.publish(topic, records)
            except NotFound:
                await context.bus.ensure_topic(topic, 1, compacted=True)
                return await context.bus.publish(topic, records)

        self._newest = await context.retry.call("announce", publish), name
        key = (entry.model, entry.version)
        if entry.state is ModelState.READY:
            self._ready[key] = entry
        else:
            self._ready.pop(key, None)

    async def _served_elsewhere(self, entry: Announcement) -> bool:
        try:
            beats = await self._directory.workers()
        except Unavailable:
            return False
        since = self._context.clock() - LIVE
        return any(
            (load.model, load.version) == (entry.model, entry.version) and load.state is ModelState.READY
            for beat in beats
            if beat.worker != self._context.worker and beat.at >= since and not beat.draining
            for load in facts_of(beat.models)
        )
