"""What this worker tells the gateways of its model versions: announcements on the compacted catalogue topic.

Invariant: a version that another worker serves is not announced as anything else than ready.
"""

from __future__ import annotations

from typing import Final

from protocol.errors import Unavailable
from protocol.messages import Announcement, ModelState
from protocol.ports import Directory, OutRecord
from protocol.presence import encode_announcement
from workers.context import Context

LIVE: Final = 2.5
"""Seconds since its last sign of life for which another worker is believed to serve."""
WITHHOLD: Final = 10.0
"""Seconds for which an announcement that another worker's service makes wrong is kept, in case that ends too."""


class Catalogue:
    """Announces.

    Args:
        context: the worker's.
        directory: tells whether another worker serves a version.
    """

    def __init__(self, context: Context, directory: Directory) -> None:
        self._context = context
        self._directory = directory
        self._withheld: dict[tuple[str, str], Announcement] = {}

    async def announce(self, entry: Announcement) -> None:
        """Tell the gateways, or keep it for `look_again`."""
        key = (entry.model, entry.version)
        self._withheld.pop(key, None)
        if entry.state is not ModelState.READY and await self._served_elsewhere(entry):
            self._withheld[key] = entry
        else:
            await self._publish(entry)

    async def look_again(self) -> None:
        """Announce what was withheld for a worker that turns out to have gone too.

        Workers that follow one repository unload at about the same time, each still seeing the last heartbeat of the other.
        """
        for key, entry in list(self._withheld.items()):
            if entry.at + WITHHOLD < self._context.clock():
                del self._withheld[key]
            elif not await self._served_elsewhere(entry) and self._withheld.pop(key, None) is entry:
                await self._publish(entry)

    async def _publish(self, entry: Announcement) -> None:
        context = self._context
        name, value = encode_announcement(entry)
        await context.patience.call(
            "announce", lambda: context.bus.publish(context.names.catalogue_topic, [OutRecord(value, key=name)])
        )

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
            for load in beat.models
        )
