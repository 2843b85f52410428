"""Requests to the bus: everything of one turn of the event loop and one topic goes out as one group, to one partition.

While `IN_FLIGHT` groups of a topic wait for their acknowledgement, the next one stays open and grows: a broker's cost is per group
much more than per record, so that many groups of one record would fill its time long before the records do.

Invariants: every record that was handed in is accounted for: its place is told, or its failure; none is dropped in silence. A group
that is held back goes out with the next acknowledgement or failure, so it never waits for more traffic.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from gateway.calls.pending import Call
from gateway.metrics import GatewayMetrics
from protocol.errors import FleetError, Unavailable
from protocol.ports import Bus, OutRecord, Place, Published

_GROUP_BYTES: Final = 1024 * 1024
"""A group is closed at this size, so that a broker's batch limit is never the sum of many large requests."""

IN_FLIGHT: Final = 2
"""Groups of one topic on their way at once: one at the broker, one behind it in the producer."""

_log = structlog.get_logger("gateway.calls.publisher")


class _Group:
    __slots__ = ("calls", "places", "records", "size", "topic")

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.records: list[OutRecord] = []
        self.calls: list[Call | None] = []
        self.places: list[tuple[int, asyncio.Future[Place]]] = []
        self.size = 0


class Publisher:
    """Collects records during a turn of the loop and publishes them at its end.

    Args:
        bus: where they go.
        metrics: counts groups and the time to their acknowledgement.
        on_failure: called for each call whose record was not acknowledged.
    """

    def __init__(self, bus: Bus, metrics: GatewayMetrics, on_failure: Callable[[Call, FleetError], None]) -> None:
        self._bus = bus
        self._metrics = metrics
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._open: dict[str, _Group] = {}
        self._closed: list[_Group] = []
        self._in_flight: dict[str, int] = {}
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    def enqueue(self, topic: str, record: OutRecord, call: Call) -> None:
        """Publish with this turn's group; only a failure is told, to `on_failure`."""
        group = self._join(topic, record)
        group.calls.append(call)

    async def publish_and_wait(self, topic: str, record: OutRecord) -> Place:
        """Publish with this turn's group and wait for the acknowledgement.

        Raises:
            FleetError: not acknowledged; the record may or may not be in the log.
        """
        group = self._join(topic, record)
        place: asyncio.Future[Place] = self._loop.create_future()
        group.places.append((len(group.calls), place))
        group.calls.append(None)
        return await place

    async def close(self) -> None:
        """Wait until everything that was handed in is accounted for."""
        self.flush()
        while self._tasks:
            await asyncio.wait(self._tasks)
            await asyncio.sleep(0)  # for the callbacks that send what was held back

    def _join(self, topic: str, record: OutRecord) -> _Group:
        """The topic's open group, with the record in it."""
        size = len(record.value)
        group = self._open.get(topic)
        if group is None or group.size + size > _GROUP_BYTES:
            if group is not None:
                self._closed.append(group)
            group = self._open[topic] = _Group(topic)
            if not self._scheduled:
                self._scheduled = True
                self._loop.call_soon(self.flush)
        group.records.append(record)
        group.size += size
        return group

    def flush(self) -> None:
        """Send what may go; what may not stays where it is. Happens by itself with the next turn of the loop."""
        self._scheduled = False
        self._closed = [group for group in self._closed if not self._send(group)]
        waiting = {group.topic for group in self._closed}
        for topic, group in list(self._open.items()):
            if topic not in waiting and self._send(group):
                del self._open[topic]

    def _send(self, group: _Group) -> bool:
        """Start publishing a group, unless enough of its topic is on its way."""
        count = self._in_flight.get(group.topic, 0)
        if count >= IN_FLIGHT:
            return False
        self._in_flight[group.topic] = count + 1
        task = self._loop.create_task(self._publish(group))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def _landed(self, topic: str) -> None:
        """A group has been acknowledged or has failed: the next one may go."""
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
            published = await self._bus.publish(group.topic, group.records)
        except FleetError as error:
            _log.warning("publish failed", topic=group.topic, records=len(group.records), error=error.message)
            self._fail(group, error)
        except Exception as error:
            _log.exception("publish failed", topic=group.topic, records=len(group.records))
            self._fail(group, Unavailable(f"the request could not be published: {type(error).__name__}"))
        else:
            self._metrics.publish_seconds.observe(time.perf_counter() - started)
            self._metrics.publish_records.observe(len(group.records))
            _tell(group, published)
        finally:
            self._landed(group.topic)

    def _fail(self, group: _Group, error: FleetError) -> None:
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
