"""The bus in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence

from protocol.errors import NotFound, TooLarge, Unavailable, quoted
from protocol.frames import MAX_RECORD
from protocol.ports import Consumer, ImmediateBus, Listener, OutRecord, Published, Record
from protocol.runtime.microtasks import Microtasks
from protocol.transport.embedded.broker import MemoryBroker
from protocol.transport.embedded.consumer import MemoryConsumer, Topic


class MemoryBus:
    """A bus on an embedded broker; see `protocol.ports.Bus`. Without a broker it creates one."""

    def __init__(self, broker: MemoryBroker | None = None, microtasks: Microtasks | None = None) -> None:
        self._broker = broker or MemoryBroker()
        self._microtasks = microtasks or Microtasks()
        self._turns: dict[str, int] = {}
        self._consumers: list[MemoryConsumer] = []
        self._following: set[asyncio.Future[None]] = set()
        self._is_open = False

    def another(self) -> MemoryBus:
        """A bus of another process on the same broker, not yet open."""
        return MemoryBus(self._broker, self._microtasks)

    async def open(self) -> None:
        """Connect."""
        if not self._is_open:
            await self._broker.open()
            self._is_open = True

    async def close(self) -> None:
        """Disconnect: its consumers stop, without leaving their groups, and its followers end."""
        if not self._is_open:
            return
        self._is_open = False
        for consumer in self._consumers:
            await consumer.close()
        for waiter in self._following:
            if not waiter.done():
                waiter.set_result(None)
        await self._broker.close()

    @property
    def immediate(self) -> ImmediateBus | None:
        """This bus."""
        return self

    async def healthy(self) -> bool:
        """Whether the bus is open and its broker takes records."""
        return self._is_open and await self._broker.healthy()

    async def ensure_topic(self, topic: str, partitions: int, *, compacted: bool = False) -> int:
        """See `Bus.ensure_topic`."""
        self._check_open()
        return await self._broker.ensure_topic(topic, partitions, compacted=compacted)

    async def raise_partitions(self, topic: str, partitions: int) -> int:
        """See `Bus.raise_partitions`."""
        self._check_open()
        return await self._broker.raise_partitions(topic, partitions)

    async def partitions(self, topic: str) -> int:
        """See `Bus.partitions`."""
        self._check_open()
        found = self._broker.topics.get(topic)
        return 0 if found is None else len(found.logs)

    async def publish(self, topic: str, records: Sequence[OutRecord], partition: int | None = None) -> Published:
        """See `Bus.publish`. In memory it is acknowledged without yielding to the event loop."""
        return await self._broker.append(*self._place(topic, records, partition), records)

    def publish_now(self, topic: str, records: Sequence[OutRecord]) -> Published:
        """See `ImmediateBus.publish_now`."""
        found, partition = self._place(topic, records, None)
        self._broker.check_room()
        return self._broker.apply_append(found, partition, records, time.time())

    def _place(self, topic: str, records: Sequence[OutRecord], partition: int | None) -> tuple[Topic, int]:
        """The topic, and the partition that the records go to."""
        self._check_open()
        found = self._broker.topic(topic)
        for record in records:
            if record.size > MAX_RECORD:
                raise TooLarge(f"a record of {record.size} bytes is over the limit of {MAX_RECORD}")
        if partition is None:
            partition = self._turns[topic] = (self._turns.get(topic, -1) + 1) % len(found.logs)
        elif not 0 <= partition < len(found.logs):
            raise NotFound(f"topic {quoted(topic)} has no partition {partition}: it has {len(found.logs)}")
        return found, partition

    async def subscribe(self, topic: str, group: str, member: str, listener: Listener) -> Consumer:
        """See `Bus.subscribe`. Partitions are assigned before it returns."""
        self._check_open()
        found = self._broker.topic(topic)
        await self._broker.add_group(found, group)
        consumer = MemoryConsumer(found, group, member, listener, self._broker, self._microtasks)
        self._broker.join(consumer)
        self._consumers = [other for other in self._consumers if not other.closed]
        self._consumers.append(consumer)
        return consumer

    async def follow(self, topic: str, start: Mapping[int, int] | None = None) -> AsyncIterator[Sequence[Record]]:
        """See `Bus.follow`. Ends when the bus is closed."""
        self._check_open()
        found = self._broker.topic(topic)
        begin = start or {}
        positions = [max(log.start, begin.get(partition, 0)) for partition, log in enumerate(found.logs)]
        if past := _advance(found, positions):
            yield past
        yield []
        while self._is_open:
            if records := _advance(found, positions):
                yield records
                continue
            waiter = asyncio.get_running_loop().create_future()
            found.followers.add(waiter)
            self._following.add(waiter)
            try:
                await waiter
            finally:
                found.followers.discard(waiter)
                self._following.discard(waiter)

    async def read_record(self, topic: str, partition: int, offset: int) -> Record | None:
        """See `Bus.read_record`. A record is kept until every group has committed it, so at least until it has its answer."""
        self._check_open()
        found = self._broker.topics.get(topic)
        if found is None or not 0 <= partition < len(found.logs):
            return None
        return found.logs[partition].record_at(offset)

    async def committed(self, topic: str, group: str) -> Mapping[int, int]:
        """See `Bus.committed`."""
        self._check_open()
        found = self._broker.topics.get(topic)
        return dict(found.groups[group].committed) if found is not None and group in found.groups else {}

    async def extents(self, topics: Collection[str]) -> Mapping[str, Mapping[int, tuple[int, int]]]:
        """See `Bus.extents`."""
        self._check_open()
        known = {topic: found for topic in topics if (found := self._broker.topics.get(topic)) is not None}
        return {
            topic: {partition: (log.start, log.end) for partition, log in enumerate(found.logs)}
            for topic, found in known.items()
        }

    async def evict(self, group: str, members: Sequence[str]) -> None:
        """See `Bus.evict`."""
        self._check_open()
        self._broker.evict(group, members)

    def _check_open(self) -> None:
        if not self._is_open:
            raise Unavailable("the embedded bus is closed")


def _advance(topic: Topic, positions: list[int]) -> list[Record]:
    records: list[Record] = []
    for partition, log in enumerate(topic.logs):
        if positions[partition] < log.end:
            records += log.slice(positions[partition], log.end)
            positions[partition] = log.end
    return records
