"""Reads the fleet's own servers: heartbeats and memory from the store, catalogue and dead letters from the log."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from gateway.catalogue.catalogue import Catalogue
from gateway.catalogue.heartbeats import is_sound
from gateway.scaling.view import ScalingView
from penstock.dead.letters import ReadLetter, Redriven, read_letter
from penstock.dead.topic import there_now
from penstock.status.beats import lane_views, model_views, worker_views
from penstock.status.view import FleetView, Key
from protocol.answer_times import histogram
from protocol.errors import FleetError, Unavailable
from protocol.heartbeat_codec import decode_announcement
from protocol.messages import Announcement
from protocol.model_stats import document
from protocol.naming import Names
from protocol.transport import Transport, open_transport
from protocol.transport.settings import TransportSettings

WITHIN: Final = 20.0
"""Seconds that a reading may take."""
DEAD_WITHIN: Final = 5.0
"""Seconds of them for all dead topics."""
DEAD_AGAIN: Final = 10.0
"""Seconds after which a model without dead letters is looked at again: brokers take a second to say that a topic does not exist."""
DEAD_AT_ONCE: Final = 32
"""Dead topics that are read at the same time."""
MAX_LETTERS: Final = 10_000
"""Dead letters of one model that are read."""
LIVE: Final = 30.0
"""Seconds after its last heartbeat for which a worker is shown. Its peers remove it earlier if there are any."""
SILENT: Final = 2.0
"""Seconds after its last heartbeat for which a worker counts as serving, as at the gateways."""
UNSCALED: Final = "wanted workers follow from how the load changes, which a gateway watches: add --gateway URL"


@contextlib.asynccontextmanager
async def reading(settings: TransportSettings) -> AsyncIterator[FleetReader]:
    """A reader of the fleet that the settings name.

    Raises:
        Unavailable: broker or store does not answer.
    """
    async with open_transport(settings) as transport:
        reader = FleetReader(transport, settings.names, f"{settings.kafka} with prefix '{settings.prefix}'")
        try:
            yield reader
        finally:
            await reader.close()


class DeadCounts:
    """Dead letters of one model that nobody has sent again; each reading goes on where the last one ended.

    Attributes:
        due: when to read again, on the event loop's clock.
    """

    def __init__(self) -> None:
        self.due = 0.0
        self._waiting: dict[str, str] = {}
        self._next: dict[int, int] = {}
        self._read = 0

    @property
    def cut(self) -> bool:
        """Whether there may be more than were read."""
        return self._read >= MAX_LETTERS

    async def read(self, transport: Transport, names: Names, model: str) -> dict[str, int]:
        """Counts by reason."""
        if not self.cut:
            topic = names.dead_topic(model)
            async with contextlib.aclosing(there_now(transport.bus, topic, dict(self._next))) as stream:
                async for records in stream:
                    for record in records:
                        self._next[record.partition] = record.offset + 1
                        self._take(read_letter(record, model))
                    if self.cut:
                        break
        return self.counts

    @property
    def counts(self) -> dict[str, int]:
        """What was read so far, by reason."""
        return dict(collections.Counter(self._waiting.values()))

    def _take(self, letter: ReadLetter | Redriven) -> None:
        self._read += 1
        if isinstance(letter, Redriven):
            self._waiting.pop(letter.root_ref, None)
        else:
            self._waiting[letter.root_ref] = letter.reason


class FleetReader:
    """The fleet behind an open transport."""

    def __init__(self, transport: Transport, names: Names, source: str) -> None:
        self._transport = transport
        self._names = names
        self._source = source
        self._dead: dict[str, DeadCounts] = {}
        self._now = 0.0
        self._catalogue = Catalogue(names, {})
        self._scaling = ScalingView(transport.bus, transport.results, names, self._catalogue, lambda: self._now, SILENT)

    async def close(self) -> None:
        """Stop reading."""
        await self._scaling.close()

    async def read(self) -> FleetView:
        """What its servers say now.

        Raises:
            Unavailable: they do not answer in time.
        """
        try:
            async with asyncio.timeout(WITHIN):
                return await self._read()
        except TimeoutError:
            raise Unavailable(f"Kafka and Redis did not answer within {WITHIN:.0f} s") from None

    async def _read(self) -> FleetView:
        results = self._transport.results
        announced = await self._announced()
        keys = sorted(announced)
        kept = await results.totals(keys)
        totals = {key: {**document(of), "answers": histogram(of)} for key, of in zip(keys, kept, strict=True)}
        beats = [beat for beat in await self._transport.directory.workers() if is_sound(beat)]
        now = self._now = await results.now()
        self._scaling.observe(beats)
        await self._scaling.refresh(max_age=0.0)
        shown = [beat for beat in beats if beat.at >= now - LIVE]
        dead = await self._dead_letters({model for model, _ in keys})
        unread = len({model for model, _ in keys} - dead.keys())
        unseen = [UNSCALED]
        if unread:
            unseen.append(f"dead letters of {unread} model(s): their topics were not read within {DEAD_WITHIN:.0f} s")
        return FleetView(
            self._source, now, store_used=await results.fill(), dead=dead,
            dead_cut=frozenset(model for model, counter in self._dead.items() if counter.cut),
            models=model_views(
                announced, totals, [beat for beat in shown if beat.at >= now - SILENT], lane_views(self._scaling.lanes())
            ),
            workers=worker_views(shown, now), unseen=tuple(unseen),
        )  # fmt: skip

    async def _dead_letters(self, models: set[str]) -> dict[str, dict[str, int]]:
        """Counts by reason, of the models whose topics could be read in time."""
        loop, gate = asyncio.get_running_loop(), asyncio.Semaphore(DEAD_AT_ONCE)

        async def count(model: str) -> dict[str, int]:
            counter = self._dead.setdefault(model, DeadCounts())
            if loop.time() < counter.due:
                return counter.counts
            async with gate:
                counts = await counter.read(self._transport, self._names, model)
            counter.due = 0.0 if counts else loop.time() + DEAD_AGAIN
            return counts

        tasks = {loop.create_task(count(model)): model for model in sorted(models)}
        if not tasks:
            return {}
        done, late = await asyncio.wait(tasks, timeout=DEAD_WITHIN)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return {tasks[task]: task.result() for task in done}

    async def _announced(self) -> dict[Key, Announcement]:
        found: dict[Key, Announcement] = {}
        async with contextlib.aclosing(there_now(self._transport.bus, self._names.catalogue_topic)) as stream:
            async for records in stream:
                for record in records:
                    model, _, version = (record.key or b"").decode(errors="replace").rpartition("/")
                    if not len(record.value):
                        found.pop((model, version), None)
                        continue
                    with contextlib.suppress(FleetError):
                        entry = decode_announcement(record.value)
                        self._names.infer_topic(entry.model, entry.version)
                        found[entry.model, entry.version] = entry
                self._catalogue.apply(records)
        return found
