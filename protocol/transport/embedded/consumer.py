"""A topic of the embedded broker, and its consumers.

Invariant: a consumer has positions for exactly the partitions that its group last assigned, from the offsets that it had committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Protocol

from protocol.errors import Unavailable, quoted
from protocol.ports import Assigned, Listener, Record
from protocol.runtime.microtasks import Microtasks
from protocol.transport.embedded.groups import Group, Member
from protocol.transport.embedded.partition_log import PartitionLog


class Coordinator(Protocol):
    """What a consumer needs of its broker."""

    def join(self, consumer: MemoryConsumer) -> None:
        """Make it a member of its group."""

    async def commit(self, topic: Topic, group_id: str, offsets: Mapping[int, int]) -> None:
        """Commit the group's offsets."""


class Topic:
    """A topic's partitions, groups and readers."""

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
        """Add a partition; its groups do not know it yet."""
        self.logs.append(log)
        self.readers.append([])


class MemoryConsumer:
    """One member of one group; see `protocol.ports.Consumer`.

    A member that was evicted, or expired after a silent session, joins again with its next fetch. A replaced member does not.
    """

    def __init__(
        self,
        topic: Topic,
        group_id: str,
        static: str,
        listener: Listener,
        broker: Coordinator,
        microtasks: Microtasks,
    ) -> None:
        self.topic = topic
        self.group_id = group_id
        self.static = static
        self.membership: Member | None = None
        self._broker = broker
        self._listener = listener
        self._microtasks = microtasks
        self._loop = asyncio.get_running_loop()
        self._offering = self._taken = False
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
        """See `Consumer.fetch`. Raises Unavailable if this member was closed or replaced."""
        loop = self._loop
        now = loop.time()
        self._taken = False
        self._poll(now)
        records = self._take(max_records, partitions)
        if records or timeout <= 0:
            return records
        deadline = now + timeout
        while not records and now < deadline:
            await self._wait(loop, deadline, partitions)
            if self._closed or self._taken:
                return []
            now = loop.time()
            self._poll(now)
            records = self._take(max_records, partitions)
        return records

    def backlog(self) -> int:
        """Records in the owned partitions after the last fetch."""
        logs = self.topic.logs
        return sum([logs[partition].behind(position) for partition, position in self._positions.items()])

    def positions(self) -> dict[int, int]:
        """See `Consumer.positions`."""
        return dict(self._positions)

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """See `Consumer.commit`: all of the offsets, or none."""
        if not all(partition in self._positions for partition in offsets):
            lost = sorted(set(offsets) - set(self._positions))
            raise Unavailable(
                f"member {quoted(self.static)} of group {quoted(self.group_id)} does not own partitions {lost} any more"
            )
        if offsets:
            await self._broker.commit(self.topic, self.group_id, offsets)

    async def lag(self) -> int:
        """Records in the owned partitions at or after the committed offsets."""
        committed, logs = self.topic.groups[self.group_id].committed, self.topic.logs
        return sum(logs[partition].behind(committed.get(partition, 0)) for partition in self._positions)

    async def close(self) -> None:
        """Stop fetching without leaving the group: the partitions wait for a replacement, an eviction or the session's end."""
        if not self._closed:
            self._closed = True
            self._positions.clear()
            self._forget_partitions()
            self._wake()

    # --- what the broker calls ---------------------------------------------------------------------------------------

    def notify(self, partition: int) -> None:
        """Records were appended to this partition."""
        if self._waiter is None or self._offering:
            return
        if self._wanted is None and self.topic.logs[partition].carries(self._positions.get(partition, 0)):
            self._offering = True
            self._microtasks.add(self._offer)
        elif self._wanted is None or partition in self._wanted:
            self._wake()

    def _offer(self) -> None:
        """Let the listener take messages while `fetch` waits; for the rest, `fetch` is called again."""
        self._offering = False
        if self._waiter is None or self._waiter.done() or self._wanted is not None:
            return
        self._listener.arrived(self._take_messages)
        if self.backlog():
            self._wake()

    def _take_messages(self, max_records: int) -> list[Record]:
        logs, positions = self.topic.logs, self._positions
        if all(logs[partition].carries(positions[partition]) for partition in self._order):
            self._taken = True  # so the listener has less room now than `fetch` was called with
            return self._take(max_records, None)
        return []

    def give_up(self) -> None:
        """Revoke all partitions."""
        partitions = list(self._positions)
        self._positions.clear()
        self._forget_partitions()
        if partitions and not self._closed:
            self._listener.revoked(partitions)

    def take_over(self) -> None:
        """Take the partitions that the group assigned to this member, from their committed offsets on."""
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
            raise Unavailable(f"member {quoted(self.static)} of group {quoted(self.group_id)} {why}")
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
