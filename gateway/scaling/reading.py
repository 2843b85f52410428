"""Reads the logs of topics that have partitions without a live worker, as seldom as the answer allows.

A tick asks for the ends of all such topics at once. Committed offsets cost a request per topic, and move only while a worker owns
the partition: they are read again when the end or the owners have changed, and now and then besides.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from gateway.backlog import LogFacts
from gateway.catalogue.catalogue import Catalogue, RequestQueue, Served
from gateway.routing.capacity import instances_of
from gateway.routing.loads import full_batch
from gateway.scaling.fleet import FleetScaling, Key
from gateway.scaling.records import RecordReader, Waiting
from protocol.errors import FleetError
from protocol.model_stats import document
from protocol.ports import Bus, Place, Results

ABSENT_EVERY: Final = 10.0
"""Seconds between two looks for a topic that does not exist yet, as those of the batch lane."""
COMMITTED_EVERY: Final = 30.0
"""Seconds after which committed offsets are read again although nothing seems to have changed."""
SAMPLES: Final = 8
"""Partitions of one topic whose oldest record is read where more records wait."""
AT_ONCE: Final = 16
"""Topics that are read at the same time."""
LOOKED: Final = 32
"""Unread records of one topic up to which each is looked at."""

Extent = Mapping[int, tuple[int, int]]


@dataclasses.dataclass(slots=True)
class _Known:
    """What was read of one topic."""

    extent: Extent
    owned: frozenset[int]
    read_at: float
    committed: Mapping[int, int]
    records: dict[Place, Waiting | None]


class LogReader:
    """Feeds a `FleetScaling` from the logs.

    Args:
        bus: to read from.
        results: have the fleet's statistics, from which a version's speed is known while no worker serves it.
        catalogue: of the announced versions.
        fleet: gets what is read.
        clock: the fleet's.
    """

    def __init__(
        self, bus: Bus, results: Results, catalogue: Catalogue, fleet: FleetScaling, clock: Callable[[], float]
    ) -> None:
        self._bus = bus
        self._results = results
        self._records = RecordReader(bus, results)
        self._catalogue = catalogue
        self._fleet = fleet
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._absent: dict[str, float] = {}
        self._asked_speed: dict[Key, float] = {}

    async def look(self) -> None:
        """Read what may have changed, and give it to the fleet.

        Raises:
            Unavailable: no broker answers; what is known stays.
        """
        began = self._clock()
        queues = {queue.topic: queue for queue in self._unowned(began)}
        extents = await self._bus.extents(queues)
        for topic in self._known.keys() - queues.keys():  # their workers say what waits; later it would be out of date
            del self._known[topic]
            self._fleet.read(topic, LogFacts({}), began)
        for topic in queues.keys() - extents.keys():
            self._absent[topic] = began
            self._fleet.read(topic, LogFacts({}), began)
        gate = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self._read(queues[topic], extent, began, gate) for topic, extent in extents.items()))
        await self._learn_speeds(queues.values(), began)

    def _unowned(self, now: float) -> Iterable[RequestQueue]:
        """The queues with partitions that no live worker owns."""
        topics = set[str]()
        for served in self._catalogue.all():
            for queue in (served, served.batch):
                topics.add(queue.topic)
                if self._fleet.hinted(queue.topic) or (
                    self._is_unowned(queue, served)
                    and now - self._absent.get(queue.topic, -ABSENT_EVERY) >= ABSENT_EVERY
                ):
                    yield queue
        for topic in self._absent.keys() - topics:
            del self._absent[topic]

    def _is_unowned(self, queue: RequestQueue, served: Served) -> bool:
        owned = self._fleet.owned((queue.model, queue.version), queue.lane)
        known = self._known.get(queue.topic)
        count = max(served.partitions, len(known.extent) if known is not None else 0)
        return not owned.issuperset(range(count))

    async def _read(self, queue: RequestQueue, extent: Extent, began: float, gate: asyncio.Semaphore) -> None:
        """Read one topic; a broker or store that does not answer for it leaves what is known."""
        topic = queue.topic
        self._absent.pop(topic, None)
        owned = frozenset(self._fleet.owned((queue.model, queue.version), queue.lane))
        known = self._known.get(topic)
        async with gate:
            with contextlib.suppress(FleetError):
                if known is None or self._is_stale(known, extent, owned, began):
                    committed = await self._bus.committed(topic, topic)
                    known = _Known(extent, owned, began, committed, known.records if known is not None else {})
                    self._known[topic] = known
                self._fleet.read(topic, await self._facts(queue, known), began)

    async def _facts(self, queue: RequestQueue, known: _Known) -> LogFacts:
        """What the log says of partitions without a worker; of few records, only those count that somebody still waits for."""
        unread = _unread(known.extent, known.committed)
        waiting = {partition: offsets for partition, offsets in unread.items() if partition not in known.owned}
        few = sum(map(len, waiting.values())) <= LOOKED
        places = [(partition, offset) for partition in waiting for offset in waiting[partition]] if few else [
            (partition, waiting[partition].start) for partition in sorted(waiting)[:SAMPLES]
        ]  # fmt: skip
        known.records = await self._records.look(queue, places, known.records)
        over = await self._records.finished(known.records, self._clock()) if few and places else set()
        return _facts(waiting, {place: one for place, one in known.records.items() if place not in over}, over)

    @staticmethod
    def _is_stale(known: _Known, extent: Extent, owned: frozenset[int], now: float) -> bool:
        changed = known.extent != extent or known.owned != owned
        return changed or now - known.read_at >= COMMITTED_EVERY

    async def _learn_speeds(self, queues: Iterable[RequestQueue], now: float) -> None:
        """What the fleet's statistics say of the speed of versions that wait for their first worker."""
        keys = list(
            dict.fromkeys(
                key
                for queue in queues
                if self._fleet.unread(key := (queue.model, queue.version), queue.lane)
                and not self._fleet.speed(key)
                and now - self._asked_speed.get(key, -COMMITTED_EVERY) >= COMMITTED_EVERY
            )
        )
        if not keys:
            return
        self._asked_speed = {key: at for key, at in self._asked_speed.items() if now - at < COMMITTED_EVERY}
        self._asked_speed.update(dict.fromkeys(keys, now))
        with contextlib.suppress(FleetError):
            for key, totals in zip(keys, await self._results.totals(keys), strict=True):
                self._learn_speed(key, totals)

    def _learn_speed(self, key: Key, totals: Mapping[str, int]) -> None:
        with contextlib.suppress(FleetError):
            config = self._catalogue.get(*key).config
            size = max(1, config.max_batch_size)
            seconds, _ = full_batch(document(totals), size)
            if seconds > 0:
                self._fleet.predict(key, size * instances_of(config) / seconds)


def _next(extent: tuple[int, int], committed: int | None) -> int:
    """Where the group goes on."""
    return max(extent[0], committed or 0)


def _unread(extent: Extent, committed: Mapping[int, int]) -> dict[int, range]:
    """The offsets that no worker has committed, by partition."""
    offsets = {partition: range(_next(of, committed.get(partition)), of[1]) for partition, of in extent.items()}
    return {partition: unread for partition, unread in offsets.items() if unread}


def _facts(unread: Mapping[int, range], records: Mapping[Place, Waiting | None], over: Collection[Place]) -> LogFacts:
    found = [one for one in records.values() if one is not None]
    each = sum(one.rows for one in found) / len(found) if found else 1.0
    oldest: dict[int, float] = {}
    for (partition, _), one in records.items():
        if one is not None and one.published > 0:
            oldest[partition] = min(one.published, oldest.get(partition, one.published))
    done = collections.Counter(partition for partition, _ in over)
    return LogFacts({partition: len(offsets) - done[partition] for partition, offsets in unread.items()}, each, oldest)
