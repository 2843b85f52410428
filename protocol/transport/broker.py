"""The embedded broker: topics, partitions and consumer groups of one process, shared by any number of `MemoryBus`.

Everything runs on one event loop. `append` and `commit` are coroutines only so that the durable broker can wait for its disk.

Invariants:
- a record goes when every group of its topic has committed it, and not before: what has no answer yet can still be read again;
  a topic without groups (dead letters) keeps the newest `RETENTION` bytes of each partition;
- a consumer that is live owns exactly what its group says, and its positions start at what was committed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from protocol.errors import NotFound, Unavailable
from protocol.ports import Assigned, Listener, OutRecord, Published, Record
from protocol.transport.groups import Group, Member
from protocol.transport.partition_log import PartitionLog

RETENTION: Final = 64 * 1024 * 1024
"""Bytes per partition of a topic that nobody consumes."""
MAX_BYTES: Final = 1024 * 1024 * 1024
"""Bytes of all records that wait; above it publishing is refused."""


class Topic:
    """A topic's partitions, and who reads them."""

    def __init__(self, name: str, partitions: int, *, compacted: bool) -> None:
        self.name = name
        self.compacted = compacted
        self.logs: list[PartitionLog] = []
        self.groups: dict[str, Group] = {}
        self.consumers: dict[str, dict[str, MemoryConsumer]] = {}
        self.readers: list[list[MemoryConsumer]] = []
        self.followers: set[asyncio.Future[None]] = set()
        for _ in range(partitions):
            self.add(PartitionLog(compacted=compacted))

    def add(self, log: PartitionLog) -> None:
        """One more partition, before anybody reads."""
        self.logs.append(log)
        self.readers.append([])


class MemoryBroker:
    """What the buses of one process connect to.

    Args:
        session_timeout: seconds after which a member that does not poll loses its partitions to the others.
        max_bytes: of all records that wait to be committed.
    """

    def __init__(self, session_timeout: float = 10.0, max_bytes: int = MAX_BYTES) -> None:
        self.topics: dict[str, Topic] = {}
        self._session_timeout = session_timeout
        self._max_bytes = max_bytes
        self._size = 0
        self._users = 0
        self._timers: dict[tuple[str, str], asyncio.TimerHandle] = {}

    async def open(self) -> None:
        """One more bus uses the broker."""
        self._users += 1

    async def close(self) -> None:
        """One bus less; the last one stops the timers."""
        self._users -= 1
        if not self._users:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    async def healthy(self) -> bool:
        """Whether records can be written."""
        return True

    def topic(self, name: str) -> Topic:
        """That topic.

        Raises:
            NotFound: there is none.
        """
        topic = self.topics.get(name)
        if topic is None:
            raise NotFound(f"there is no topic {name!r}")
        return topic

    async def ensure_topic(self, name: str, partitions: int, *, compacted: bool) -> int:
        """Create it where it does not exist; its number of partitions."""
        topic = self.topics.get(name)
        if topic is None:
            topic = self.topics[name] = Topic(name, partitions, compacted=compacted)
        return len(topic.logs)

    async def append(self, topic: Topic, partition: int, records: Sequence[OutRecord]) -> Published:
        """Add records to one partition and wake whoever waits for them."""
        self.check_room()
        return self.apply_append(topic, partition, records, time.time())

    def check_room(self) -> None:
        """Raises Unavailable where too much waits already."""
        if self._size > self._max_bytes:
            raise Unavailable(
                f"the embedded log is full: {self._size} bytes of records wait for workers, at most {self._max_bytes} may",
                retry_after=1.0,
            )

    def apply_append(self, topic: Topic, partition: int, records: Sequence[OutRecord], now: float) -> Published:
        """The append itself, at once."""
        log = topic.logs[partition]
        before = log.size
        first = log.append(topic.name, partition, records, now)
        if dropped := log.compact():
            self.pruned(topic, partition, dropped)
        if topic.groups:
            self._size += log.size - before
        elif log.size > RETENTION and not topic.compacted:
            log.drop(log.excess(RETENTION))
            self.pruned(topic, partition)
        for consumer in topic.readers[partition]:
            consumer.notify(partition)
        if topic.followers:
            for waiter in topic.followers:
                if not waiter.done():
                    waiter.set_result(None)
            topic.followers.clear()
        return Published(topic.name, partition, first, records[0].timestamp or now if records else now)

    def pruned(self, topic: Topic, partition: int, offsets: Sequence[int] = ()) -> None:
        """These offsets were compacted away, or else everything below the log's start went."""

    async def commit(self, topic: Topic, group_id: str, offsets: Mapping[int, int]) -> None:
        """Note how far a group has come, and drop what every group is done with."""
        self.apply_commit(topic, group_id, offsets)

    def apply_commit(self, topic: Topic, group_id: str, offsets: Mapping[int, int]) -> None:
        """The commit itself, at once. An offset never goes back."""
        group = topic.groups[group_id]
        for partition, offset in offsets.items():
            log = topic.logs[partition]
            group.committed[partition] = max(group.committed.get(partition, 0), min(offset, log.end))
            before = log.size
            log.drop(min(other.committed.get(partition, 0) for other in topic.groups.values()))
            self._size += log.size - before

    async def add_group(self, topic: Topic, group_id: str) -> Group:
        """The group, created at its first use."""
        group = topic.groups.get(group_id)
        if group is None:
            if not topic.groups:
                self._size += sum(log.size for log in topic.logs)
            group = self.new_group(topic, group_id)
        return group

    def new_group(self, topic: Topic, group_id: str) -> Group:
        """A group without members."""
        topic.consumers[group_id] = {}
        group = topic.groups[group_id] = Group(len(topic.logs), self._session_timeout)
        return group

    # --- membership --------------------------------------------------------------------------------------------------

    def join(self, consumer: MemoryConsumer) -> None:
        """Make this consumer its group's member; a former one of the same static id is fenced off."""
        topic, group_id = consumer.topic, consumer.group_id
        group, now = topic.groups[group_id], asyncio.get_running_loop().time()
        expired = self._remove(topic, group_id, group.expire(now))
        former = topic.consumers[group_id].pop(consumer.static, None)
        consumer.membership, moved = group.join(consumer.static, now)
        if former is not None:
            former.leave(fenced=True)
        topic.consumers[group_id][consumer.static] = consumer
        if moved or expired:
            self._rebalance(topic, group_id)
        else:
            consumer.take_over()
        self._watch(topic, group_id)

    def evict(self, group_id: str, statics: Collection[str]) -> None:
        """Remove members from a group, on whatever topic."""
        for topic in self.topics.values():
            group = topic.groups.get(group_id)
            if group is not None and self._remove(topic, group_id, group.evict(statics)):
                self._rebalance(topic, group_id)

    def _remove(self, topic: Topic, group_id: str, members: Sequence[Member]) -> bool:
        for member in members:
            consumer = topic.consumers[group_id].pop(member.static, None)
            if consumer is not None:
                consumer.leave()
        return bool(members)

    def _rebalance(self, topic: Topic, group_id: str) -> None:
        consumers = list(topic.consumers[group_id].values())
        for consumer in consumers:
            consumer.give_up()
        for consumer in consumers:
            consumer.take_over()

    def _watch(self, topic: Topic, group_id: str) -> None:
        loop = asyncio.get_running_loop()
        at = topic.groups[group_id].next_expiry(loop.time())
        key = topic.name, group_id
        if key not in self._timers and at is not None:
            self._timers[key] = loop.call_at(at, self._expire, topic, group_id)

    def _expire(self, topic: Topic, group_id: str) -> None:
        del self._timers[topic.name, group_id]
        if self._remove(topic, group_id, topic.groups[group_id].expire(asyncio.get_running_loop().time())):
            self._rebalance(topic, group_id)
        self._watch(topic, group_id)


class MemoryConsumer:
    """One member of one group; see `protocol.ports.Consumer`.

    A member that was evicted, or was silent for too long, joins again with its next fetch. One that was replaced does not.
    """

    def __init__(self, broker: MemoryBroker, topic: Topic, group_id: str, static: str, listener: Listener) -> None:
        self.topic = topic
        self.group_id = group_id
        self.static = static
        self.membership: Member | None = None
        self._broker = broker
        self._listener = listener
        self._epoch = 0
        self._positions: dict[int, int] = {}
        self._order: list[int] = []
        self._waiter: asyncio.Future[None] | None = None
        self._wanted: Collection[int] | None = None
        self._fenced = False
        self._closed = False

    @property
    def member(self) -> str:
        """The member id."""
        return self.membership.id if self.membership is not None else ""

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    # --- what the worker calls ---------------------------------------------------------------------------------------

    async def fetch(self, max_records: int, timeout: float, partitions: Collection[int] | None = None) -> list[Record]:
        """See `Consumer.fetch`. Raises Unavailable where this member was closed or replaced."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._poll(now)
        records = self._take(max_records, partitions)
        if records or timeout <= 0:
            return records
        deadline = now + timeout
        while not records and now < deadline:
            await self._wait(loop, deadline, partitions)
            if self._closed:
                return []
            now = loop.time()
            self._poll(now)
            records = self._take(max_records, partitions)
        return records

    def backlog(self) -> int:
        """Records in the owned partitions behind the last fetch."""
        logs = self.topic.logs
        return sum(logs[partition].behind(position) for partition, position in self._positions.items())

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """See `Consumer.commit`: all of the offsets, or none."""
        if not all(partition in self._positions for partition in offsets):
            lost = sorted(set(offsets) - set(self._positions))
            raise Unavailable(
                f"member {self.static!r} of group {self.group_id!r} does not own partitions {lost} any more"
            )
        if offsets:
            await self._broker.commit(self.topic, self.group_id, offsets)

    async def lag(self) -> int:
        """Records in the owned partitions at or behind the committed offsets."""
        committed, logs = self.topic.groups[self.group_id].committed, self.topic.logs
        return sum(logs[partition].behind(committed.get(partition, 0)) for partition in self._positions)

    async def close(self) -> None:
        """Stop fetching. The group is not told: its partitions wait for a replacement, an eviction or the session's end."""
        if not self._closed:
            self._closed = True
            self._positions.clear()
            self._forget_partitions()
            self._wake()

    # --- what the broker calls ---------------------------------------------------------------------------------------

    def notify(self, partition: int) -> None:
        """Records came."""
        if self._waiter is not None and (self._wanted is None or partition in self._wanted):
            self._wake()

    def give_up(self) -> None:
        """All partitions are revoked."""
        partitions = list(self._positions)
        self._positions.clear()
        self._forget_partitions()
        if partitions and not self._closed:
            self._listener.revoked(partitions)

    def take_over(self) -> None:
        """Start with what the group now assigns to this member, at what was committed."""
        if self._closed or self.membership is None:
            return
        logs, committed = self.topic.logs, self.topic.groups[self.group_id].committed
        assigned = []
        for partition in self.membership.partitions:
            log = logs[partition]
            entry = Assigned(partition, committed.get(partition, log.start), log.end, log.start)
            assigned.append(entry)
            self._positions[partition] = max(entry.committed, log.start)
            self.topic.readers[partition].append(self)
        self._order = [entry.partition for entry in assigned]
        self._epoch += 1
        self._listener.assigned(self._epoch, assigned)
        self._wake()

    def leave(self, *, fenced: bool = False) -> None:
        """This is not a member any more; `fenced` where another one took its place."""
        self.membership = None
        self._fenced = self._fenced or fenced
        self.give_up()
        self._wake()

    # --- parts -------------------------------------------------------------------------------------------------------

    def _poll(self, now: float) -> None:
        if self._closed or self._fenced:
            why = "was closed" if self._closed else "was replaced by another process with the same id"
            raise Unavailable(f"member {self.static!r} of group {self.group_id!r} {why}")
        if self.membership is None:
            self._broker.join(self)
        else:
            self.membership.seen = now

    def _take(self, max_records: int, partitions: Collection[int] | None) -> list[Record]:
        records: list[Record] = []
        logs, positions = self.topic.logs, self._positions
        for partition in self._order:
            if partitions is not None and partition not in partitions:
                continue
            position = positions[partition]
            if position < logs[partition].end:
                part = logs[partition].slice(position, max_records - len(records))
                if part:
                    positions[partition] = part[-1].offset + 1
                    records += part
                if len(records) >= max_records:
                    break
        if len(records) >= max_records and self._order:
            self._order.append(self._order.pop(0))
        return records

    async def _wait(self, loop: asyncio.AbstractEventLoop, deadline: float, partitions: Collection[int] | None) -> None:
        waiter = self._waiter = loop.create_future()
        self._wanted = partitions
        timer = loop.call_at(deadline, self._wake)
        member = self.membership
        if member is not None:
            member.polling = True
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None
            if member is not None:
                member.polling = False
                member.seen = loop.time()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _forget_partitions(self) -> None:
        self._order = []
        for readers in self.topic.readers:
            if self in readers:
                readers.remove(self)
