"""Publishes requests: the records of one turn of the event loop and one topic go out as one group, to one partition.

While `IN_FLIGHT` groups of a topic await acknowledgement, the next one stays open and grows: a broker's cost is mostly per group,
not per record.

Invariants: every record ends with its place or with a failure. A group that is held back goes out with the next acknowledgement or
failure, so it never waits for more traffic.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from gateway.calls.batch_topics import BatchTopics
from gateway.calls.pending import Call
from gateway.calls.routed import RoutedCalls
from gateway.metrics import GatewayMetrics
from protocol.errors import FleetError, NotFound, Unavailable
from protocol.ports import Bus, ImmediateBus, OutRecord, Place, Published
from protocol.runtime.microtasks import Microtasks
from protocol.runtime.repeats import Flood
from protocol.runtime.tasks import BackgroundTasks

_GROUP_BYTES: Final = 1024 * 1024
"""A group is closed at this size, so that many large requests never add up to the broker's batch limit."""

IN_FLIGHT: Final = 2
"""Groups of one topic in flight: one at the broker, one behind it in the producer."""

_log = structlog.get_logger("gateway.calls.publisher")


class _Group:
    __slots__ = ("calls", "largest", "partition", "places", "records", "rows", "size", "topic")

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.records: list[OutRecord] = []
        self.calls: list[Call | None] = []
        self.places: list[tuple[int, asyncio.Future[Place]]] = []
        self.size = 0
        self.rows = 0
        self.largest = 1
        self.partition: int | None = None


class Publisher:
    """Collects the records of a turn of the event loop and publishes them at its end.

    Args:
        bus: takes the groups.
        metrics: counts groups and the time to their acknowledgement.
        on_failure: called with each call whose record was not acknowledged.
        batch_topics: creates topics of the batch lane; without it every topic exists.
        routed: chooses the partitions; without it, or if it does not choose, they take turns.
        microtasks: end the turn in which a record came.

    Attributes:
        on_published: called with the topic of each acknowledged group.
    """

    def __init__(
        self,
        bus: Bus,
        metrics: GatewayMetrics,
        on_failure: Callable[[Call, FleetError], None],
        batch_topics: BatchTopics | None = None,
        microtasks: Microtasks | None = None,
        routed: RoutedCalls | None = None,
    ) -> None:
        self._bus = bus
        self._microtasks = microtasks or Microtasks()
        self._immediate = bus.immediate
        self._batch_topics = batch_topics
        self._routed = routed
        self._metrics = metrics
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._open: dict[str, _Group] = {}
        self._closed: list[_Group] = []
        self._in_flight: dict[str, int] = {}
        self._scheduled = False
        self._tasks = BackgroundTasks("publisher")
        self._flood = Flood()
        self.on_published: Callable[[str], None] | None = None

    def enqueue(self, topic: str, record: OutRecord, call: Call) -> None:
        """Publish with this turn's group; a failure goes to `on_failure`, success sets `call.place`."""
        group = self._join(topic, record)
        group.calls.append(call)
        rows = call.rows
        group.rows += rows
        if rows > group.largest:
            group.largest = rows

    async def publish_and_wait(self, topic: str, record: OutRecord) -> Place:
        """Publish with this turn's group and wait for the acknowledgement.

        Raises:
            FleetError: not acknowledged; the record may or may not be in the log.
        """
        group = self._join(topic, record)
        place: asyncio.Future[Place] = self._loop.create_future()
        group.places.append((len(group.calls), place))
        group.calls.append(None)
        group.rows += 1
        return await place

    @property
    def immediate(self) -> bool:
        """Whether records are acknowledged at once, and requests need no bytes."""
        return self._immediate is not None

    async def close(self) -> None:
        """Wait until every record is acknowledged or has failed."""
        self.flush()
        await self._tasks.join()

    def _join(self, topic: str, record: OutRecord) -> _Group:
        """Add the record to the topic's open group; returns the group."""
        size = record.size
        group = self._open.get(topic)
        if group is None or group.size + size > _GROUP_BYTES:
            if group is not None:
                self._closed.append(group)
            group = self._open[topic] = _Group(topic)
            if not self._scheduled:
                self._scheduled = True
                self._microtasks.add(self.flush)
        group.records.append(record)
        group.size += size
        return group

    def flush(self) -> None:
        """Publish the groups that may go; the rest stay open. Runs automatically at the end of each turn."""
        self._scheduled = False
        self._closed = [group for group in self._closed if not self._send(group)]
        waiting = {group.topic for group in self._closed}
        for topic, group in list(self._open.items()):
            if topic not in waiting and self._send(group):
                del self._open[topic]

    def _send(self, group: _Group) -> bool:
        """Publish a group at once, or start to unless `IN_FLIGHT` of its topic are in flight."""
        if self._immediate is not None and self._exists(group.topic):
            self._publish_now(group, self._immediate)
            return True
        count = self._in_flight.get(group.topic, 0)
        if count >= IN_FLIGHT:
            return False
        self._in_flight[group.topic] = count + 1
        if self._routed is not None:
            self._route(group, self._routed)
        self._tasks.spawn(self._publish(group))
        return True

    def _route(self, group: _Group, routed: RoutedCalls) -> None:
        """Choose the group's partition; its calls count there from now on, so that the next choice knows of them."""
        group.partition = routed.choose(group.topic, group.rows, group.largest)
        if group.partition is not None:
            routed.count(group.topic, group.partition, group.calls)

    def _landed(self, topic: str) -> None:
        """A group was acknowledged or failed: the next one may go."""
        count = self._in_flight[topic] - 1
        if count:
            self._in_flight[topic] = count
        else:
            del self._in_flight[topic]
        if topic in self._open or self._closed:
            self.flush()

    async def _publish(self, group: _Group) -> None:
        started = time.perf_counter()
        try:
            self._acknowledged(group, await self._deliver(group), started)
        except Exception as error:
            self._fail(group, error)
        finally:
            self._landed(group.topic)

    async def _deliver(self, group: _Group) -> Published:
        """Publish a group; its topic is created if it is missing and of the batch lane."""
        topics, topic, partition = self._batch_topics, group.topic, group.partition
        if topics is not None and not topics.ready(topic):
            await topics.ensure(topic)
        try:
            return await self._bus.publish(topic, group.records, partition)
        except NotFound:
            if topics is not None and topics.missing(topic):
                await topics.ensure(topic)
            elif partition is None:
                raise
        return await self._bus.publish(topic, group.records)  # the partition is not known to this producer (yet)

    def _exists(self, topic: str) -> bool:
        return self._batch_topics is None or self._batch_topics.ready(topic)

    def _publish_now(self, group: _Group, bus: ImmediateBus) -> None:
        started = time.perf_counter()
        try:
            self._acknowledged(group, bus.publish_now(group.topic, group.records), started)
        except Exception as error:
            self._fail(group, error)

    def _acknowledged(self, group: _Group, published: Published, started: float) -> None:
        self._metrics.publish_seconds.observe(time.perf_counter() - started)
        self._metrics.publish_records.observe(len(group.records))
        if self._routed is not None and published.partition != group.partition:
            self._routed.count(group.topic, published.partition, group.calls)
        _tell(group, published)
        if self.on_published is not None:
            self.on_published(group.topic)

    def _fail(self, group: _Group, error: Exception) -> None:
        if isinstance(error, FleetError):
            held = self._flood.held((group.topic, error.message), self._loop.time())
            if held is not None:
                _log.warning(
                    "publish failed", topic=group.topic, records=len(group.records), error=error.message,
                    **({"not_logged": held} if held else {}),
                )  # fmt: skip
        else:
            _log.error("publish failed", topic=group.topic, records=len(group.records), exc_info=error)
            error = Unavailable(f"the request could not be published: {type(error).__name__}")
        unavailable = Unavailable(
            f"the request was not accepted: {error.message}", retry_after=error.retry_after or 1.0
        )
        for call in group.calls:
            if call is not None:
                self._on_failure(call, unavailable)
        for _, place in group.places:
            if not place.done():
                place.set_exception(unavailable)


def _tell(group: _Group, published: Published) -> None:
    for offset, call in enumerate(group.calls, published.offset):
        if call is not None:
            call.place = published.partition, offset
    for index, place in group.places:
        if not place.done():
            place.set_result((published.partition, published.offset + index))
