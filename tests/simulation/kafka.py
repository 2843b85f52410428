"""A broker as aiokafka and Kafka's groups show it, over the real partition log and group membership.

What is Kafka's here and not the embedded broker's: a rebalance is a round that every member has to join, of which it hears with a
heartbeat; offsets are committed as they come, in the generation of whoever commits; a member that does not know yet that it was
removed goes on with what it had fetched; what was fetched and not returned is thrown away with its partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

from protocol.errors import NotFound, Unavailable
from protocol.ports import Assigned, Listener, OutRecord, Published, Record
from protocol.transport.groups import Group
from protocol.transport.partition_log import PartitionLog
from tests.simulation.loop import OUTSIDE, Process, VirtualLoop
from tests.simulation.weather import EPOCH, Network, Weather

HEARTBEAT = 0.5
SESSION = 3.0


class Topic:
    def __init__(self, name: str, partitions: int) -> None:
        self.name = name
        self.logs = [PartitionLog() for _ in range(partitions)]
        self.coordinators: dict[str, Coordinator] = {}
        self.waiting: list[tuple[Process, asyncio.Future[None]]] = []


class Coordinator:
    """One group on one topic."""

    def __init__(self, topic: Topic, server: Kafka) -> None:
        self.topic = topic
        self.server = server
        self.group = Group(len(topic.logs), SESSION)
        self.generation = 0
        self.joining = False
        self.consumers: dict[str, SimConsumer] = {}
        self.waiting: dict[str, asyncio.Future[tuple[int, tuple[int, ...]]]] = {}
        self._ticking = False

    def join(self, consumer: SimConsumer, given: asyncio.Future[tuple[int, tuple[int, ...]]]) -> None:
        """JoinGroup and SyncGroup; `given` gets the generation and the partitions once every member has joined."""
        loop, static = self.server.loop, consumer.static
        former, member = self.consumers.get(static), self.group.members.get(static)
        if former is not consumer or member is None or member.id != consumer.member:
            if former is not None and former is not consumer:
                former.fenced = True
                self._send_away(static)
            member, moved = self.group.join(static, loop.now)
            consumer.member = member.id
            self.consumers[static] = consumer
            self.joining = self.joining or moved
        member.seen = loop.now
        if self.joining:
            self.waiting[static] = given
            self.complete()
        else:
            given.set_result((self.generation, member.partitions))
        if not self._ticking:
            self._ticking = True
            loop.call_later(SESSION / 6, self._tick, context=OUTSIDE)

    def complete(self) -> None:
        """End the round if everybody has joined."""
        if not self.joining or self.waiting.keys() < self.group.members.keys():
            return
        self.joining = False
        self.generation += 1
        waiting, self.waiting = self.waiting, {}
        for static, given in waiting.items():
            member = self.group.members.get(static)
            if member is not None and not given.done():
                given.set_result((self.generation, member.partitions))

    def _tick(self) -> None:
        now = self.server.loop.now
        members = self.group.members
        for static in self.waiting:
            if static in members:
                members[static].seen = now
        if "kafka" in self.server.weather.down:  # a coordinator that is away counts nobody's silence
            for member in members.values():
                member.seen = now
        self.remove([static for static, member in members.items() if now - member.seen > SESSION])
        self.server.loop.call_later(SESSION / 6, self._tick, context=OUTSIDE)

    def remove(self, statics: Sequence[str]) -> None:
        """LeaveGroup, or the end of a session."""
        if not self.group.evict(statics):
            return
        for static in statics:
            self._send_away(static)
        self.joining = True
        if self.group.members:
            self.complete()

    def _send_away(self, static: str) -> None:
        given = self.waiting.pop(static, None)
        if given is not None and not given.done():
            given.set_exception(Unavailable(f"{static} is not a member any more"))

    def heartbeat(self, consumer: SimConsumer) -> tuple[str, list[int]]:
        """What the member is told, and where the logs end."""
        member = self.group.members.get(consumer.static)
        if consumer.fenced:
            return "fenced", []
        if member is None or member.id != consumer.member:
            return "unknown", []
        member.seen = self.server.loop.now
        if self.joining or consumer.generation != self.generation:
            return "rebalance", []
        return "ok", [log.end for log in self.topic.logs]

    def commit(self, consumer: SimConsumer, generation: int, offsets: Mapping[int, int]) -> None:
        member = self.group.members.get(consumer.static)
        if member is None or member.id != consumer.member or generation != self.generation:
            raise Unavailable(f"{consumer.static} commits in generation {generation}, the group's is {self.generation}")
        for partition, offset in offsets.items():
            self.server.on_commit(self.topic, partition, self.group.committed.get(partition, 0), offset)
            self.group.committed[partition] = offset


class Kafka:
    """All topics.

    Attributes:
        on_commit: told of every offset that is committed, before it is.
    """

    def __init__(self, loop: VirtualLoop, weather: Weather) -> None:
        self.loop = loop
        self.weather = weather
        self.topics: dict[str, Topic] = {}
        self.on_commit: Callable[[Topic, int, int, int], None] = lambda *_: None

    def topic(self, name: str) -> Topic:
        if name not in self.topics:
            raise NotFound(f"there is no topic {name}")
        return self.topics[name]

    def append(self, topic: Topic, partition: int, records: Sequence[OutRecord]) -> int:
        first = topic.logs[partition].append(topic.name, partition, records, EPOCH + self.loop.now)
        end = topic.logs[partition].end
        for coordinator in topic.coordinators.values():
            for consumer in coordinator.consumers.values():
                if not consumer.process.cut:
                    self.loop.call_later(
                        self.weather.latency(), consumer.notify, partition, end, context=consumer.process.context
                    )
        waiting, topic.waiting = topic.waiting, []
        for _, waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
        return first

    def lag(self) -> dict[str, int]:
        """By group, what is not committed."""
        return {
            topic.name: sum(log.end - coordinator.group.committed.get(n, 0) for n, log in enumerate(topic.logs))
            for topic in self.topics.values()
            for coordinator in topic.coordinators.values()
        }


class SimBus:
    """`protocol.ports.Bus` of one process."""

    def __init__(self, server: Kafka, network: Network, process: Process) -> None:
        self._server = server
        self._network = network
        self._process = process
        self._turns = server.weather.dice.randrange(8)
        self._consumers: list[SimConsumer] = []

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

    async def follow(self, topic: str) -> AsyncIterator[Sequence[Record]]:
        found = self._server.topic(topic)
        position, first = 0, True
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

    async def read(self, topic: str, partition: int, offset: int) -> Record | None:
        found = self._server.topic(topic)
        return await self._network.call("kafka", lambda: found.logs[partition].read(offset))

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
        self.fenced = False
        self._coordinator = coordinator
        self._network = network
        self._listener = listener
        self._epoch = 0
        self._positions: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self._loop = network.loop
        self._running = self._loop.create_task(self._run())

    # --- membership ---

    async def _run(self) -> None:
        state, ends = "rebalance", list[int]()
        while not self._closed:
            try:
                if state == "ok":
                    for partition, end in enumerate(ends):
                        self.notify(partition, end)
                    await asyncio.sleep(HEARTBEAT * self._network.weather.dice.uniform(0.5, 1.0))
                else:
                    self._take_away()
                    if state == "fenced":
                        return
                    await self._join()
                state, ends = await self._network.call("kafka", lambda: self._coordinator.heartbeat(self))
            except Unavailable:
                await asyncio.sleep(0.2)

    async def _join(self) -> None:
        given = self._loop.create_future()
        await self._network.call("kafka", lambda: self._coordinator.join(self, given))
        self.generation, partitions = await given
        entries = await self._network.call("kafka", lambda: self._stand(partitions))
        self._positions = {entry.partition: entry.committed for entry in entries}
        self._ends = {entry.partition: entry.end for entry in entries}
        self._committed = dict(self._positions)
        self._epoch += 1
        self._listener.assigned(self._epoch, entries)
        self._wake()

    def _stand(self, partitions: Sequence[int]) -> list[Assigned]:
        committed, logs = self._coordinator.group.committed, self._coordinator.topic.logs
        return [Assigned(n, committed.get(n, 0), logs[n].end, logs[n].start) for n in partitions]

    def _take_away(self) -> None:
        partitions = list(self._positions)
        self._positions, self._ends = {}, {}
        if partitions and not self._closed:
            self._listener.revoked(partitions)

    # --- records ---

    def notify(self, partition: int, end: int) -> None:
        """The broker's fetch response: the partition's records below `end` are here."""
        if partition in self._ends and end > self._ends[partition]:
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
        for partition, position in self._positions.items():
            count = min(self._ends[partition] - position, max_records - len(records))
            if count > 0 and (partitions is None or partition in partitions):
                records += self._coordinator.topic.logs[partition].slice(position, count)
                self._positions[partition] = position + count
        return records

    def backlog(self) -> int:
        return sum(self._ends[n] - position for n, position in self._positions.items())

    async def lag(self) -> int:
        return sum(self._ends[n] - self._committed[n] for n in self._positions)

    async def commit(self, offsets: Mapping[int, int]) -> None:
        if not offsets.keys() <= self._positions.keys():
            raise Unavailable(f"{self.static} does not own {sorted(offsets)} any more")
        generation = self.generation
        await self._network.call("kafka", lambda: self._coordinator.commit(self, generation, offsets))
        for partition, offset in offsets.items():
            if partition in self._committed:
                self._committed[partition] = offset

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._running.cancel()
            self._positions = {}
            self._wake()
