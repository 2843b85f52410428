"""Publishes records in groups, with bounded memory, and tells for every record what became of it.

The records of one turn of the event loop and one topic go out as one group, of at most `GROUP_RECORDS` records and `GROUP_BYTES`.
While `IN_FLIGHT` groups of a topic await acknowledgement, the next ones stay and grow.

Invariants: every record is told exactly once, delivered or failed, whatever happens, cancellation included; a record counts in
`buffered` from `add` until it was told.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import tenacity

from protocol.errors import Cancelled, FleetError, InvalidArgument, NotFound, TooLarge, Unavailable, described
from protocol.ports import Bus, OutRecord, Published
from protocol.runtime.tasks import BackgroundTasks

GROUP_RECORDS: Final = 512
GROUP_BYTES: Final = 1_000_000
"""Below Kafka's default limit of a batch, which a topic has that the broker made by itself."""
IN_FLIGHT: Final = 8
OVERHEAD: Final = 512
"""Bytes of memory that a waiting record takes besides its value, its headers and its id."""
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0

log = logging.getLogger(__name__)


class Delivery(NamedTuple):
    """What became of a record.

    Attributes:
        id: the request's.
        topic: where it was sent.
        partition, offset: its place in the topic; -1 if it failed.
        error: why it failed; None if the broker has it. A failed record may still be in the log: the broker may have got it
            and not said so.
    """

    id: str
    topic: str
    partition: int = -1
    offset: int = -1
    error: FleetError | None = None


class _Group:
    __slots__ = ("began", "ids", "records", "size")

    def __init__(self, now: float) -> None:
        self.began = now
        self.records: list[OutRecord] = []
        self.ids: list[str] = []
        self.size = 0

    def halves(self) -> tuple[_Group, _Group]:
        """The same records in two groups; their sizes are counted in this one."""
        middle = len(self.ids) // 2
        first, second = _Group(self.began), _Group(self.began)
        first.records, second.records = self.records[:middle], self.records[middle:]
        first.ids, second.ids = self.ids[:middle], self.ids[middle:]
        return first, second


class _Channel:
    """The groups of one topic."""

    __slots__ = ("closed", "ensured", "ensuring", "open", "sending", "topic")

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.open: _Group | None = None
        self.closed: collections.deque[_Group] = collections.deque()
        self.sending: set[_Group] = set()
        self.ensured = False
        self.ensuring = asyncio.Lock()


class Outbox:
    """Takes records and publishes them.

    Args:
        bus: open.
        partitions: of a topic that is made here.
        delivery_timeout: seconds for which a group is sent again while the broker cannot be reached.
        on_delivery: told about every record, on the event loop; must not block.

    Attributes:
        buffered: bytes of the records that were not told yet.
        delivered, failed: records told so far.
    """

    def __init__(
        self, bus: Bus, partitions: int, delivery_timeout: float, on_delivery: Callable[[Delivery], object] | None
    ) -> None:
        self._bus = bus
        self._partitions = partitions
        self._delivery_timeout = delivery_timeout
        self._on_delivery = on_delivery
        self._loop = asyncio.get_running_loop()
        self._channels: dict[str, _Channel] = {}
        self._fresh: set[_Channel] = set()
        self._scheduled = False
        self._tasks = BackgroundTasks("batch producer")
        self._changed = asyncio.Event()
        self.buffered = 0
        self.delivered = self.failed = 0

    def add(self, topic: str, record: OutRecord, request_id: str, size: int) -> bool:
        """Take a record; whether it has filled its group: then the caller should let the event loop run.

        Args:
            topic: is made when its first group goes out, if there is none.
            record, request_id: the record, and by which id it is told.
            size: bytes of its value, headers and id.
        """
        channel = self._channels.get(topic)
        if channel is None:
            channel = self._channels[topic] = _Channel(topic)
        group = channel.open
        if group is None or group.size + size > GROUP_BYTES:
            if not self._scheduled:
                self._schedule()
            if group is not None:
                channel.closed.append(group)
            group = channel.open = _Group(time.monotonic())
            self._fresh.add(channel)
        group.records.append(record)
        group.ids.append(request_id)
        size += OVERHEAD
        group.size += size
        self.buffered += size
        if len(group.ids) < GROUP_RECORDS:
            return False
        channel.closed.append(group)
        channel.open = None
        return True

    def _schedule(self) -> None:
        if self._loop is not asyncio.get_running_loop():
            raise InvalidArgument("the producer is used by another event loop: make one for each loop")
        self._scheduled = True
        self._loop.call_soon(self._flush)

    async def wait_below(self, most: int) -> None:
        """Wait until at most so many bytes are buffered."""
        while self.buffered > most:
            self._changed.clear()
            await self._changed.wait()

    async def close(self, timeout: float | None) -> None:
        """Wait until every record was told; after `timeout` seconds those that are left are told as failed."""
        self._flush()
        try:
            async with asyncio.timeout(timeout):
                await self.wait_below(0)
        except TimeoutError:
            log.warning("records of the batch producer were not acknowledged within %s s", timeout)
        finally:
            self._give_up()
            await self._tasks.close()  # tells what is in flight, except in tasks that never began
            for channel in self._channels.values():
                channel.closed.extend(channel.sending)
                channel.sending.clear()
            self._give_up()

    def _give_up(self) -> None:
        """Tell what has not gone out."""
        for channel in self._channels.values():
            waiting = [*channel.closed, *([channel.open] if channel.open is not None else [])]
            channel.closed.clear()
            channel.open = None
            for group in waiting:
                self._fail(channel, group, Cancelled("the producer was closed before the record was sent"))
                self._forget(group)

    def _flush(self) -> None:
        """Send what came in this turn."""
        self._scheduled = False
        fresh, self._fresh = self._fresh, set()
        for channel in fresh:
            self._pump(channel)

    def _pump(self, channel: _Channel) -> None:
        while len(channel.sending) < IN_FLIGHT:
            if channel.closed:
                group = channel.closed.popleft()
            elif channel.open is not None:
                group, channel.open = channel.open, None
            else:
                return
            channel.sending.add(group)
            self._tasks.spawn(self._send(channel, group))

    async def _send(self, channel: _Channel, group: _Group) -> None:
        try:
            await self._deliver(channel, group)
        finally:
            self._forget(group)
            channel.sending.discard(group)
            self._pump(channel)

    def _forget(self, group: _Group) -> None:
        self.buffered -= group.size
        self._changed.set()

    async def _deliver(self, channel: _Channel, group: _Group) -> None:
        """Publish a group, and tell its records; never raises but for cancellation."""
        try:
            published = await self._publish(channel, group)
        except TooLarge as error:
            if len(group.ids) == 1:
                self._fail(channel, group, error)
            else:  # the topic may take less than a group; each half is told by itself
                first, second = group.halves()
                try:
                    await self._deliver(channel, first)
                except BaseException:
                    self._fail(channel, second, Cancelled("the producer was closed before the record was sent"))
                    raise
                await self._deliver(channel, second)
        except FleetError as error:
            self._fail(channel, group, error)
        except asyncio.CancelledError:
            self._fail(channel, group, Cancelled("the producer was closed before the broker acknowledged the record"))
            raise
        except Exception as error:
            log.exception("a group of records for %s failed", channel.topic)
            self._fail(channel, group, FleetError(f"the record was not sent: {described(error)}"))
        else:
            self.delivered += len(group.ids)
            if self._on_delivery is not None:
                for offset, request_id in enumerate(group.ids, published.offset):
                    self._tell(Delivery(request_id, channel.topic, published.partition, offset))

    def _fail(self, channel: _Channel, group: _Group, error: FleetError) -> None:
        self.failed += len(group.ids)
        if self._on_delivery is not None:
            for request_id in group.ids:
                self._tell(Delivery(request_id, channel.topic, error=error))

    def _tell(self, delivery: Delivery) -> None:
        assert self._on_delivery is not None
        try:
            self._on_delivery(delivery)
        except Exception:
            log.exception("on_delivery failed for %s", delivery.id)

    async def _publish(self, channel: _Channel, group: _Group) -> Published:
        """Publish, again and again while no broker answers, until the group's time is over."""
        try:
            return await self._attempt(channel, group)
        except (Unavailable, NotFound) as error:
            log.info("%d records for %s are sent again: %s", len(group.ids), channel.topic, error)
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type((Unavailable, NotFound)),
            wait=tenacity.wait_random_exponential(FIRST_PAUSE, LONGEST_PAUSE),
            stop=lambda _: time.monotonic() > group.began + self._delivery_timeout,
            sleep=asyncio.sleep,
            reraise=True,
        )
        return await retrying(self._attempt, channel, group)

    async def _attempt(self, channel: _Channel, group: _Group) -> Published:
        if not channel.ensured:
            async with channel.ensuring:
                if not channel.ensured:
                    await self._bus.ensure_topic(channel.topic, self._partitions)
                    channel.ensured = True
        try:
            return await self._bus.publish(channel.topic, group.records)
        except NotFound:
            channel.ensured = False
            raise
