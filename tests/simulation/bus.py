"""A process's side of the broker: a bus, and aiokafka's part of a group with its heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence

from protocol.errors import Unavailable
from protocol.ports import Assigned, Listener, OutRecord, Published, Record
from tests.simulation.kafka import HEARTBEAT, Coordinator, Kafka, Topic
from tests.simulation.loop import OUTSIDE, Process
from tests.simulation.weather import Network


class SimBus:
    """`protocol.ports.Bus` of one process."""

    def __init__(self, server: Kafka, network: Network, process: Process) -> None:
        self._server = server
        self._network = network
        self._process = process
        self._turns = server.weather.dice.randrange(8)
        self._consumers: list[SimConsumer] = []

    @property
    def immediate(self) -> None:
        return None

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        for consumer in self._consumers:
            await consumer.close()

    async def healthy(self) -> bool:
        return self._network.reachable("kafka")

    async def ensure_topic(self, topic: str, partitions: int, *, compacted: bool = False) -> int:
        def make() -> int:
            return len(self._server.topics.setdefault(topic, Topic(topic, partitions)).logs)

        return await self._network.call("kafka", make)

    async def partitions(self, topic: str) -> int:
        topics = self._server.topics
        return await self._network.call("kafka", lambda: len(topics[topic].logs) if topic in topics else 0)

    async def publish(self, topic: str, records: Sequence[OutRecord], partition: int | None = None) -> Published:
        server, weather = self._server, self._server.weather
        found = server.topic(topic)
        if partition is None:
            self._turns += 1
            partition = self._turns % len(found.logs)
        place = partition
        doubled = weather.happens(weather.doubled)

        def append() -> Published:
            if weather.happens(weather.late):
                server.loop.call_later(
                    weather.dice.uniform(0, 3), server.append, found, place, list(records), context=OUTSIDE
                )
                raise Unavailable("the request timed out; the records are on their way")
            first = server.append(found, place, records)
            if doubled:
                server.append(found, place, records)
            return Published(topic, place, first, records[0].timestamp)

        return await self._network.call("kafka", append)

    async def subscribe(self, topic: str, group: str, member: str, listener: Listener) -> SimConsumer:
        found = await self._network.call("kafka", lambda: self._server.topic(topic))
        if group not in found.coordinators:
            found.coordinators[group] = Coordinator(found, self._server)
        consumer = SimConsumer(found.coordinators[group], self._network, self._process, member, listener)
        self._consumers.append(consumer)
        return consumer

    async def follow(self, topic: str, start: Mapping[int, int] | None = None) -> AsyncIterator[Sequence[Record]]:
        found = self._server.topic(topic)
        position, first = (start or {}).get(0, 0), True
        while True:
            log = found.logs[0]
            records = await self._network.call("kafka", lambda log=log, at=position: log.slice(at, 10_000))  # type: ignore[misc]
            if records:
                position = records[-1].offset + 1
                yield records
            if first:
                first = False
                yield []
            waiter: asyncio.Future[None] = self._server.loop.create_future()
            if log.end == position:
                found.waiting.append((self._process, waiter))
                await waiter

    async def read_record(self, topic: str, partition: int, offset: int) -> Record | None:
        found = self._server.topic(topic)
        return await self._network.call("kafka", lambda: found.logs[partition].record_at(offset))

    async def committed(self, topic: str, group: str) -> Mapping[int, int]:
        def told() -> dict[int, int]:
            coordinator = self._server.topic(topic).coordinators.get(group)
            return dict(coordinator.group.committed) if coordinator is not None else {}

        return await self._network.call("kafka", told)

    async def extents(self, topics: Collection[str]) -> Mapping[str, Mapping[int, tuple[int, int]]]:
        def told() -> dict[str, dict[int, tuple[int, int]]]:
            known = {topic: self._server.topics[topic] for topic in topics if topic in self._server.topics}
            return {
                topic: {n: (log.start, log.end) for n, log in enumerate(found.logs)} for topic, found in known.items()
            }

        return await self._network.call("kafka", told)

    async def evict(self, group: str, members: Sequence[str]) -> None:
        def remove() -> None:
            for topic in self._server.topics.values():
                if group in topic.coordinators:
                    topic.coordinators[group].remove(members)

        await self._network.call("kafka", remove)


class SimConsumer:
    """`protocol.ports.Consumer`: aiokafka's part of a group, with its heartbeats."""

    def __init__(
        self, coordinator: Coordinator, network: Network, process: Process, static: str, listener: Listener
    ) -> None:
        self.static = static
        self.process = process
        self.member = ""
        self.generation = -1
        self.made = 0
        self.fenced = False
        self._coordinator = coordinator
        self._network = network
        self._listener = listener
        self._epoch = 0
        self._owned: Sequence[int] = ()
        self._positions: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self._loop = network.loop
        self._running = self._loop.create_task(self._run())

    # --- membership ---

    async def _run(self) -> None:
        state, ends, made = "rebalance", list[int](), 0
        while not self._closed:
            try:
                if state == "ok" and self._astray():
                    self._take_away()
                    self._epoch += 1
                    await self._announce()
                elif state == "ok":
                    for partition, end in enumerate(ends):
                        self.notify(partition, end, made)
                    await asyncio.sleep(HEARTBEAT * self._network.weather.dice.uniform(0.5, 1.0))
                else:
                    self._take_away()
                    if state == "fenced":
                        return
                    await self._join()
                state, ends, made = await self._network.call("kafka", lambda: self._coordinator.heartbeat(self))
            except Unavailable:
                await asyncio.sleep(0.2)

    async def _join(self) -> None:
        given = self._loop.create_future()
        try:
            await self._network.call("kafka", lambda: self._coordinator.join(self, given))
            self.generation, self._owned = await given
        finally:
            given.cancel()  # nothing awaits an answer that was lost on its way
        await self._announce()

    async def _announce(self) -> None:
        made, entries = await self._network.call("kafka", lambda: self._stand(self._owned))
        if made != self.made:
            self.made, self._epoch = made, self._epoch + 1  # nothing in flight continues: the log is a new one
        self._positions = {entry.partition: max(entry.committed, entry.start) for entry in entries}
        self._ends = {entry.partition: entry.end for entry in entries}
        self._committed = {entry.partition: entry.committed for entry in entries}
        self._epoch += 1
        self._listener.assigned(self._epoch, entries)
        self._wake()

    def _stand(self, partitions: Sequence[int]) -> tuple[int, list[Assigned]]:
        committed, logs = self._coordinator.group.committed, self._coordinator.topic.logs
        for n in partitions:
            committed.setdefault(n, logs[n].start)  # a partition without a commit is pinned to its start
        entries = [Assigned(n, committed[n], logs[n].end, logs[n].start) for n in partitions]
        return self._coordinator.topic.made, entries

    def _astray(self) -> bool:
        """The next record was deleted, or the topic is a new one: the broker reports that the offset is out of range."""
        topic = self._coordinator.topic
        return self.made != topic.made or any(at < topic.logs[n].start for n, at in self._positions.items())

    def _take_away(self) -> None:
        partitions = list(self._positions)
        self._positions, self._ends = {}, {}
        if partitions and not self._closed:
            self._listener.revoked(partitions)

    # --- records ---

    def notify(self, partition: int, end: int, made: int) -> None:
        """The broker's fetch response: the partition's records below `end` are here. One from a deleted topic says nothing of
        a new one with its name."""
        if made == self.made and partition in self._ends and end > self._ends[partition]:
            self._ends[partition] = end
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def fetch(self, max_records: int, timeout: float, partitions: Collection[int] | None = None) -> list[Record]:
        deadline = self._loop.now + timeout
        while not (records := self._take(max_records, partitions)):
            if self.fenced or self._closed:
                raise Unavailable(f"member {self.static} was replaced or closed")
            if self._loop.now >= deadline:
                return []
            self._waiter = self._loop.create_future()
            try:
                async with asyncio.timeout(deadline - self._loop.now):
                    await self._waiter
            except TimeoutError:
                return []
            finally:
                self._waiter = None
        return records

    def _take(self, max_records: int, partitions: Collection[int] | None) -> list[Record]:
        records: list[Record] = []
        if self._astray():
            return records
        for partition, position in self._positions.items():
            count = min(self._ends[partition] - position, max_records - len(records))
            if count > 0 and (partitions is None or partition in partitions):
                records += self._coordinator.topic.logs[partition].slice(position, count)
                self._positions[partition] = position + count
        return records

    def backlog(self) -> int:
        return sum(self._ends[n] - position for n, position in self._positions.items())

    def positions(self) -> dict[int, int]:
        return dict(self._positions)

    async def lag(self) -> int:
        return sum(self._ends[n] - self._committed[n] for n in self._positions)

    async def commit(self, offsets: Mapping[int, int]) -> None:
        if not offsets.keys() <= self._positions.keys():
            raise Unavailable(f"{self.static} does not own {sorted(offsets)} any more")
        generation, made = self.generation, self.made
        await self._network.call("kafka", lambda: self._coordinator.commit(self, generation, made, offsets))
        for partition, offset in offsets.items():
            if partition in self._committed:
                self._committed[partition] = offset

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._running.cancel()
            self._positions = {}
            self._wake()
