"""The embedded broker: topics, partitions and consumer groups of one process, shared by any number of `MemoryBus`.

Everything runs on one event loop. `append` and `commit` are coroutines only so that the durable broker can wait for its disk.

Invariants:
- a record is dropped when every group of its topic has committed it, and not before: a request without an answer can be read again;
  a topic without groups (dead letters) keeps the newest `retention` bytes of each partition;
- every live consumer has been called back for exactly the partitions that its group assigned.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from protocol.errors import NotFound, Unavailable, quoted
from protocol.ports import OutRecord, Published
from protocol.transport.embedded.consumer import MemoryConsumer, Topic
from protocol.transport.embedded.groups import Group, Member
from protocol.transport.embedded.partition_log import PartitionLog

RETENTION: Final = 64 * 1024 * 1024
"""Bytes per partition of a topic without consumers, by default."""
MAX_BYTES: Final = 1024 * 1024 * 1024
"""Bytes of all uncommitted records, by default; above it publishing is refused."""


class MemoryBroker:
    """The broker of all buses of one process.

    Args:
        session_timeout: seconds after which a member that does not poll loses its partitions to the others.
        max_bytes: of all uncommitted records.
        retention: bytes kept per partition of a topic without groups.
    """

    def __init__(
        self, session_timeout: float = 10.0, *, max_bytes: int = MAX_BYTES, retention: int = RETENTION
    ) -> None:
        self.topics: dict[str, Topic] = {}
        self._session_timeout = session_timeout
        self._max_bytes = max_bytes
        self._retention = retention
        self._size = 0
        self._users = 0
        self._timers: dict[tuple[str, str], asyncio.TimerHandle] = {}

    async def open(self) -> None:
        """Count one more bus."""
        self._users += 1

    async def close(self) -> None:
        """Count one bus fewer; the last one stops the timers."""
        self._users -= 1
        if not self._users:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    async def healthy(self) -> bool:
        """Whether records can be written."""
        return True

    def topic(self, name: str) -> Topic:
        """The topic of that name.

        Raises:
            NotFound: there is none.
        """
        topic = self.topics.get(name)
        if topic is None:
            raise NotFound(f"there is no topic {quoted(name)}")
        return topic

    async def ensure_topic(self, name: str, partitions: int, *, compacted: bool) -> int:
        """Create the topic if it does not exist; returns its number of partitions."""
        topic = self.topics.get(name)
        if topic is None:
            topic = self.topics[name] = Topic(name, partitions, compacted=compacted)
        return len(topic.logs)

    async def raise_partitions(self, name: str, partitions: int) -> int:
        """Give the topic at least so many partitions; returns how many it has then."""
        return self.apply_raise(self.topic(name), partitions)

    def apply_raise(self, topic: Topic, partitions: int) -> int:
        """The new partitions themselves; does not wait."""
        if len(topic.logs) < partitions:
            while len(topic.logs) < partitions:
                topic.add(PartitionLog(compacted=topic.compacted))
            for group_id, group in topic.groups.items():
                if group.add_partitions(partitions):
                    self._rebalance(topic, group_id)
        return len(topic.logs)

    async def append(self, topic: Topic, partition: int, records: Sequence[OutRecord]) -> Published:
        """Add records to one partition and wake waiting consumers and followers."""
        self.check_room()
        return self.apply_append(topic, partition, records, time.time())

    def check_room(self) -> None:
        """Raises Unavailable if too many bytes are uncommitted."""
        if self._size > self._max_bytes:
            raise Unavailable(
                f"the embedded log is full: {self._size} bytes of records wait for workers; the limit is {self._max_bytes}",
                retry_after=1.0,
            )

    def apply_append(self, topic: Topic, partition: int, records: Sequence[OutRecord], now: float) -> Published:
        """The append itself; does not wait."""
        log = topic.logs[partition]
        before = log.size
        first = log.append(topic.name, partition, records, now)
        if dropped := log.compact():
            self.pruned(topic, partition, dropped)
        if topic.groups:
            self._size += log.size - before
        elif log.size > self._retention and not topic.compacted:
            log.drop(log.excess(self._retention))
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
        """Called when these offsets were compacted away, or, without offsets, when everything below the log's start was dropped."""

    async def commit(self, topic: Topic, group_id: str, offsets: Mapping[int, int]) -> None:
        """Commit a group's offsets, and drop the records that every group has committed."""
        self.apply_commit(topic, group_id, offsets)

    def apply_commit(self, topic: Topic, group_id: str, offsets: Mapping[int, int]) -> None:
        """The commit itself; does not wait. An offset never goes back."""
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
        """Make this consumer a member of its group; a former member with the same static id is fenced."""
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
        """Remove members from a group, on all topics."""
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
