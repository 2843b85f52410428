"""A broker as seen through aiokafka and Kafka's groups, over the real partition log and group membership.

Unlike the embedded broker, as in Kafka: a rebalance is a round that every member has to join, announced by a heartbeat; offsets
are committed as they come, in the committer's generation; a member that does not yet know of its removal continues with its
fetched records; fetched records not yet returned are dropped with their partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from protocol.errors import NotFound, Unavailable
from protocol.ports import OutRecord, Record
from protocol.transport.embedded.groups import Group
from protocol.transport.embedded.partition_log import PartitionLog
from tests.simulation.loop import OUTSIDE, Process, VirtualLoop
from tests.simulation.weather import EPOCH, Weather

if TYPE_CHECKING:
    from tests.simulation.bus import SimConsumer

HEARTBEAT = 0.5
SESSION = 3.0


class Topic:
    """A topic.

    Attributes:
        made: how often it was created; distinguishes its logs from those of an earlier topic of the same name.
    """

    def __init__(self, name: str, partitions: int) -> None:
        self.name = name
        self.made = 1
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
        """End the round if all members have joined."""
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
        if "kafka" in self.server.weather.down:  # an unreachable coordinator counts no member's silence
            for member in members.values():
                member.seen = now
        self.remove([static for static, member in members.items() if now - member.seen > SESSION])
        self.server.loop.call_later(SESSION / 6, self._tick, context=OUTSIDE)

    def remove(self, statics: Sequence[str]) -> None:
        """LeaveGroup, or an expired session."""
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

    def heartbeat(self, consumer: SimConsumer) -> tuple[str, list[int], int]:
        """The reply to the member, the ends of the logs, and their topic."""
        member = self.group.members.get(consumer.static)
        if consumer.fenced:
            return "fenced", [], 0
        if member is None or member.id != consumer.member:
            return "unknown", [], 0
        member.seen = self.server.loop.now
        if self.joining or consumer.generation != self.generation:
            return "rebalance", [], 0
        return "ok", [log.end for log in self.topic.logs], self.topic.made

    def commit(self, consumer: SimConsumer, generation: int, made: int, offsets: Mapping[int, int]) -> None:
        member = self.group.members.get(consumer.static)
        if member is None or member.id != consumer.member or generation != self.generation:
            raise Unavailable(f"{consumer.static} commits in generation {generation}, the group's is {self.generation}")
        if made != self.topic.made:
            return  # it names an earlier log, and has no effect
        for partition, offset in offsets.items():
            self.server.on_commit(self.topic, partition, self.group.committed.get(partition, 0), offset)
            self.group.committed[partition] = offset


class Kafka:
    """All topics.

    Attributes:
        on_commit: called for every offset, before it is committed.
        on_append: called for every record.
        on_delete: called for the records that the log no longer has; says whether no process can know of it.
    """

    def __init__(self, loop: VirtualLoop, weather: Weather) -> None:
        self.loop = loop
        self.weather = weather
        self.topics: dict[str, Topic] = {}
        self.on_commit: Callable[[Topic, int, int, int], None] = lambda *_: None
        self.on_append: Callable[[Sequence[Record]], None] = lambda _: None
        self.on_delete: Callable[[Sequence[Record], bool], None] = lambda *_: None

    def topic(self, name: str) -> Topic:
        if name not in self.topics:
            raise NotFound(f"there is no topic {name}")
        return self.topics[name]

    def append(self, topic: Topic, partition: int, records: Sequence[OutRecord]) -> int:
        first = topic.logs[partition].append(topic.name, partition, records, EPOCH + self.loop.now)
        end = topic.logs[partition].end
        self.on_append(topic.logs[partition].slice(first, end - first))
        for coordinator in topic.coordinators.values():
            for consumer in coordinator.consumers.values():
                if not consumer.process.cut:
                    self.loop.call_later(
                        self.weather.latency(),
                        consumer.notify,
                        partition,
                        end,
                        topic.made,
                        context=consumer.process.context,
                    )
        waiting, topic.waiting = topic.waiting, []
        for _, waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
        return first

    # --- faults ---

    def retain(self, name: str, share: float) -> None:
        """Retention deletes this share of a partition's records, read or unread."""
        topic = self.topic(name)
        for n, log in enumerate(topic.logs):
            before = log.start + round(share * (log.end - log.start))
            # Without any commit, no process can tell what was read: a group begins at the log's start.
            known = any(n in coordinator.group.committed for coordinator in topic.coordinators.values())
            self.on_delete(log.slice(log.start, before - log.start), not known)
            log.drop(before)

    def remake(self, name: str) -> None:
        """The topic is deleted together with the group's commits, and created again."""
        topic = self.topic(name)
        for log in topic.logs:
            self.on_delete(log.slice(log.start, log.end), True)
        topic.logs = [PartitionLog() for _ in topic.logs]
        topic.made += 1
        for coordinator in topic.coordinators.values():
            coordinator.group.committed.clear()

    def lag(self) -> dict[str, int]:
        """Uncommitted records by group."""
        return {
            topic.name: sum(log.end - coordinator.group.committed.get(n, log.start) for n, log in enumerate(topic.logs))
            for topic in self.topics.values()
            for coordinator in topic.coordinators.values()
        }
