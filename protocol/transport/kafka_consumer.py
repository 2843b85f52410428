"""One static member of one group on one topic.

Invariants:
- Everything that aiokafka has fetched is drained at once into a lane per partition: as long as it holds unread records of
  one partition it fetches that partition no more, and after 100 ms waits up to `fetch_max_wait` for the others alone.
- Lanes are thrown away at revocation; what is assigned is fetched again from its committed offset.
- No record leaves before its partition was announced to the listener with its offsets.
- Of transactions only what was committed is read: an aborted record is no request. Whatever is behind an open transaction in its
  partition waits for its end.
- A log that is not the one it was (its topic was made again, it was cut short, or what is to be read next was deleted) is never
  skipped over: the partitions are announced anew, with an epoch by which nothing in flight goes on.
- A member whose `group.instance.id` was taken over by another process stops; one that was evicted joins again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import IllegalStateError, KafkaError, OffsetOutOfRangeError

from protocol.errors import Unavailable
from protocol.ports import Assigned, Listener, Record
from protocol.transport.kafka_assignor import StickyAssignor
from protocol.transport.kafka_batches import Room
from protocol.transport.kafka_connection import (
    FencedInstanceIdError,
    connection_options,
    consumer_limits,
    leave_group,
    shut,
)
from protocol.transport.kafka_fetching import MAX_DRAINED, fetch_when_free, give_up_fetches, read_strangers
from protocol.transport.kafka_lanes import Lane, Lanes
from protocol.transport.kafka_notices import Hearing
from protocol.transport.kafka_positions import TopicName, offset_of, read_positions
from protocol.transport.kafka_trouble import Trouble
from protocol.transport.settings import TransportSettings

log = logging.getLogger(__name__)

BUFFERED_BYTES: Final = 32 * 1024 * 1024
"""Bytes of records in the lanes above which nothing more is drained or inflated; one more fetch may be on its way."""
COMMIT_TIMEOUT: Final = 5.0
STOP_TIMEOUT: Final = 15.0
WATCH_INTERVAL: Final = 1.0
TOPIC_INTERVAL: Final = 2.0
"""Seconds between looks whether the topic is still the one that it was."""
MAKE_AGAIN: Final = 3.0
"""Seconds that a topic must be gone before this member makes it again: whoever deleted it may do so, with other partitions."""
STALE: Final = 30.0
"""Seconds without any answer to a fetch after which the inner consumer is replaced."""
FRESH: Final = 2.0
"""Seconds that the log's end, as the last fetch told it, is good enough for a lag."""
QUIET: Final = 1.0
"""Seconds without records and without an error, after which fetching counts as working."""
RESTART_PAUSE: Final = (0.1, 3.0)
ERROR_PAUSE: Final = 0.1
NOWHERE: Final = TopicPartition("", -1)
"""Holds nothing: asking for it polls without taking, while asking for no partition would mean all."""
_TROUBLE: Final = (KafkaError, OSError, TimeoutError)


class KafkaConsumer:
    """`protocol.ports.Consumer` on aiokafka; made by `KafkaBus.subscribe`.

    `on_rebalance` is called when this member hears from the coordinator, and from nobody before, that its group is rebalanced.
    `make_topic` makes the topic anew, as it was.
    """

    def __init__(  # noqa: PLR0913
        self,
        settings: TransportSettings,
        topic: str,
        group: str,
        member: str,
        listener: Listener,
        on_rebalance: Callable[[], None],
        make_topic: Callable[[], Awaitable[object]],
    ) -> None:
        self.group = group
        self._settings = settings
        self._topic = topic
        self._hearing = Hearing(on_rebalance)
        self._make_topic = make_topic
        self._instance = member
        self._listener = listener
        self._assignor = StickyAssignor()
        self._inner: AIOKafkaConsumer | None = None
        self._living: AIOKafkaConsumer | None = None
        self._member = ""
        self._epoch = 0
        self._name = TopicName(topic)
        self._astray = ""
        self._leaves = False
        self._lanes = Lanes()
        self._room = Room()
        self._given_before: frozenset[int] = frozenset()
        self._announced = asyncio.Event()
        self._announced_at = 0.0
        self._announcing: asyncio.Task[None] | None = None
        self._polled = False
        self._trouble = Trouble()
        self._replaced = False
        self._closed = False
        self._running = asyncio.get_running_loop().create_task(self._run())

    @property
    def member(self) -> str:
        """See `Consumer.member`."""
        return self._member

    # --- life ---

    async def _run(self) -> None:
        """Keep an inner consumer alive, until another process takes this member's place."""
        pause, longest = RESTART_PAUSE
        while not self._replaced:
            inner = self._living = self._new_inner()
            try:
                await inner.start()
                fetch_when_free(inner)
                read_strangers(inner, self._room)
                pause = RESTART_PAUSE[0]
                log.warning("the consumer of %s is made anew: %s", self._topic, await self._watch(inner))
                await self._leave(inner)
            except _TROUBLE as exc:
                self._told(exc)
            except Exception:
                log.exception("the consumer of %s failed and is made anew", self._topic)
            finally:
                self._inner = self._living = None
                self._hearing.close()
                self._take_away()
                await self._stop(inner)
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
        log.error("%s", self._why_ended())

    async def _leave(self, inner: AIOKafkaConsumer) -> None:
        """Have the group share its partitions anew: a static member that only comes back is given what it had."""
        if self._leaves and not self._replaced:
            self._leaves = False
            async with asyncio.timeout(COMMIT_TIMEOUT):
                await leave_group(inner._client, self.group, [self._instance], self._member)

    def _told(self, error: BaseException) -> None:
        """Log what aiokafka reports, and see whether it means that this member was replaced."""
        log.warning("the consumer of %s: %r", self._topic, error)
        self._trouble.met(repr(error), time.monotonic())
        if FencedInstanceIdError.__name__ in repr(error):
            self._replaced = True

    def _new_inner(self) -> AIOKafkaConsumer:
        inner = AIOKafkaConsumer(
            group_id=self.group,
            group_instance_id=self._instance,
            client_id=self._instance,
            session_timeout_ms=int(self._settings.session_timeout * 1000),
            heartbeat_interval_ms=int(self._settings.heartbeat_interval * 1000),
            partition_assignment_strategy=(self._assignor,),
            isolation_level="read_committed",
            **{**consumer_limits(self._settings), "auto_offset_reset": "none"},
            **connection_options(self._settings),
        )
        inner.subscribe([self._topic], listener=_Rebalances(self, inner))
        self._given_before = frozenset()
        return inner

    async def _watch(self, inner: AIOKafkaConsumer) -> str:
        """Returns why the inner consumer cannot go on. aiokafka has no public sign of health (its issue 1154)."""
        coordinator, fetching = inner._coordinator, inner._fetcher.error_future
        stale, looked = 0.0, time.monotonic()
        self._astray = ""
        while not self._replaced:
            self._polled = False
            await asyncio.sleep(WATCH_INTERVAL)
            if time.monotonic() - looked > TOPIC_INTERVAL:
                await self._look_at_topic(inner)
                looked = time.monotonic()
            if self._astray:
                return self._astray
            try:
                coordinator.check_errors()  # it stands still until its error was taken
            except KafkaError as exc:
                self._told(exc)
            if coordinator._coordination_task.done() or fetching.done():
                return "a task of aiokafka has ended"
            # Nobody polls, or the lanes are full: then no answer is due.
            due = self._polled and self._lanes.bytes < BUFFERED_BYTES
            stale = stale + WATCH_INTERVAL if due and self._silence(inner) > STALE else 0.0
            if stale > STALE / 3:
                return f"no answer to a fetch for {STALE:g} s"
        return "it was replaced"

    async def _look_at_topic(self, inner: AIOKafkaConsumer) -> None:
        with contextlib.suppress(*_TROUBLE, Unavailable):  # then it is looked at again
            async with asyncio.timeout(COMMIT_TIMEOUT):
                if await self._name.moved(inner._client):
                    self._leaves, self._astray = True, "its topic was deleted and made again"
                elif self._name.gone_for(time.monotonic()) > MAKE_AGAIN:
                    log.warning("topic %s was deleted while it is served: it is made again", self._topic)
                    await self._make_topic()

    def _silence(self, inner: AIOKafkaConsumer) -> float:
        """Seconds since the last answer to a fetch, or since the partitions came; 0 where there are none."""
        polls = [inner.last_poll_timestamp(TopicPartition(self._topic, number)) or 0 for number, _ in self._lanes]
        return time.time() - max(self._announced_at, max(polls) / 1000) if polls else 0.0

    async def _stop(self, inner: AIOKafkaConsumer) -> None:
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await inner.stop()
        except _TROUBLE as exc:
            log.warning("consumer of %s did not stop cleanly: %r", self._topic, exc)
        finally:
            await shut(inner._client)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    async def close(self) -> None:
        """See `Consumer.close`."""
        self._closed = True
        self._running.cancel()
        await asyncio.wait([self._running])

    # --- ownership ---

    def told_of_rebalance(self) -> None:
        """Ask the coordinator whether the group is being rebalanced; nothing happens where that is known."""
        if self._inner is not None and self._announced.is_set():
            self._hearing.told(self._inner._coordinator)

    def lives(self, inner: AIOKafkaConsumer) -> bool:
        """Whether it may still be given partitions: one that is being stopped takes part in rebalances until it is."""
        return inner is self._living

    def _rebalances(self) -> None:
        if self._epoch:  # the first join is no news to those who must take part in it
            self._hearing.begun()
        self._take_away()

    def _take_away(self) -> None:
        """The group rebalances, or the inner consumer ends: whatever was owned may now be anybody's."""
        if self._announcing is not None:
            self._announcing.cancel()
            self._announcing = None
        self._announced.clear()
        partitions = self._lanes.close()
        if partitions and not self._closed:
            self._listener.revoked(partitions)

    def _given(self, inner: AIOKafkaConsumer, partitions: Collection[TopicPartition]) -> None:
        self._inner = inner
        self._hearing.ended()
        self._member = inner._coordinator.member_id  # aiokafka has no public name for it
        given = frozenset(partition.partition for partition in partitions)
        if self._given_before and given - self._given_before:
            give_up_fetches(inner._client)
        self._given_before = given
        self._announcing = asyncio.get_running_loop().create_task(self._announce(inner, sorted(partitions)))

    async def _announce(self, inner: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> None:
        """Look up where each partition stands, then let records go; tried again until the next rebalance."""
        while True:
            try:
                entries, anew = await self._positions(inner, partitions)
                break
            except _TROUBLE as exc:
                log.warning("offsets of %s cannot be read yet: %r", self._topic, exc)
                self._trouble.met(f"its offsets cannot be read: {exc!r}", time.monotonic())
                await asyncio.sleep(ERROR_PAUSE)
        self._announcing = None
        self._trouble.over()
        if not entries and not self._epoch:
            # What this static member had may be from before the topic was made again; a spare one is only given nothing again.
            self._leaves, self._astray = True, "it was given no partition, as a member that comes back"
        self._lanes.open(entries)
        # Two steps tell the listener that another log, or another member, was in between: nothing in flight goes on.
        self._epoch += 2 if anew and self._epoch else 1
        self._announced_at = time.time()
        self._announced.set()
        self._listener.assigned(self._epoch, entries)

    async def _positions(
        self, inner: AIOKafkaConsumer, partitions: Sequence[TopicPartition]
    ) -> tuple[list[Assigned], bool]:
        """Where each partition stands, and whether any begins anew: then its start is committed, so that it is pinned."""
        if not partitions:
            return [], False
        entries, anew = await read_positions(inner, partitions, self._name)
        if anew:
            starts = {entry.partition: entry.committed for entry in entries}
            await inner.commit({place: offset_of(starts[place.partition], self._name.id) for place in anew})
        for entry, partition in zip(entries, partitions, strict=True):
            inner.seek(partition, max(entry.committed, entry.start))
        return entries, bool(anew)

    # --- fetching ---

    async def fetch(self, max_records: int, timeout: float, partitions: Collection[int] | None = None) -> list[Record]:
        """See `Consumer.fetch`. Cancelling it loses nothing.

        Raises:
            Unavailable: another process has joined as this member, or the consumer was closed: no record will come again. Or
                nothing came, and has failed for some time; it is tried again.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        remaining = timeout
        if self._lanes.bytes or timeout <= 0:  # where nothing is there, the loop below drains, and waits
            await self._drain(0.0)
        while not (records := self._lanes.take(max_records, partitions)):
            if self._replaced or self._closed:
                raise Unavailable(self._why_ended())
            if self._name.gone:
                raise Unavailable(f"topic {self._topic} does not exist any more")
            if remaining <= 0:
                if why := self._trouble.lasting(time.monotonic()):
                    raise Unavailable(f"nothing is read from {self._topic}: {why}")
                return []
            if self._announced.is_set():
                await self._drain(remaining)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(remaining):
                        await self._announced.wait()
            remaining = deadline - clock()
        return records

    def _why_ended(self) -> str:
        if self._replaced:
            return f"another process has joined {self.group} as {self._instance}: two workers have the same id"
        return f"the consumer of {self._topic} is closed"

    async def _drain(self, timeout: float) -> None:
        """Move what aiokafka has fetched into the lanes; waits for some where there is none."""
        self._polled = True
        inner = self._inner
        if inner is None or not self._announced.is_set():
            return
        left = self._room.left = BUFFERED_BYTES - self._lanes.bytes
        where = () if left > 0 else (NOWHERE,)
        try:
            if timeout == 0:
                fetched = await inner.getmany(*where, max_records=MAX_DRAINED)
            else:  # it ends by itself, except that it would wait out a rebalance that begins meanwhile
                async with asyncio.timeout(timeout):
                    fetched = await inner.getmany(*where, timeout_ms=timeout * 1000, max_records=MAX_DRAINED)
        except TimeoutError:
            return
        except Exception as exc:  # whichever it is, what was drained with it is fetched again
            self._trouble.met(repr(exc), time.monotonic())
            await self._failed(inner, exc, timeout)
            return
        if fetched or timeout > QUIET:
            self._trouble.over()
        for partition, records in fetched.items():
            if partition.partition in self._lanes:
                self._lanes.add(partition.partition, records)

    def positions(self) -> dict[int, int]:
        """See `Consumer.positions`. aiokafka moves on over aborted transactions and markers without telling."""
        inner = self._inner
        if inner is not None and self._announced.is_set():
            self._pass_gaps(inner._subscription.subscription.assignment)
        return {number: lane.position for number, lane in self._lanes}

    def _pass_gaps(self, assignment: Any) -> None:
        """Move empty lanes to where the next fetch begins."""
        for number, lane in self._lanes if assignment is not None else ():
            if lane.records:
                continue
            state = assignment.state_value(TopicPartition(self._topic, number))
            if state is not None and state.has_valid_position and state.position > lane.tail:
                lane.position = lane.tail = state.position

    async def _failed(self, inner: AIOKafkaConsumer, error: BaseException, timeout: float) -> None:
        """What was drained together with an error is lost: fetch again from the lanes' tails."""
        log.warning("fetching from %s failed: %r", self._topic, error)
        if isinstance(error, OffsetOutOfRangeError):
            self._astray = "its log was cut short, made again, or deleted where it was to be read"
        if self._announced.is_set():
            for number, lane in self._lanes:
                with contextlib.suppress(IllegalStateError):
                    inner.seek(TopicPartition(self._topic, number), lane.tail)
        await asyncio.sleep(min(timeout, ERROR_PAUSE))

    # --- offsets ---

    def _end(self, number: int, end: int) -> int:
        """The log's end as the last fetch told it; as it was at assignment before the first."""
        told = self._inner.highwater(TopicPartition(self._topic, number)) if self._inner is not None else None
        return max(told or 0, end)

    def _readable(self, number: int, lane: Lane) -> int:
        """The same without what is behind an open transaction: nobody knows when that comes."""
        told = self._inner.last_stable_offset(TopicPartition(self._topic, number)) if self._inner is not None else None
        return max(told or 0, lane.end)

    def backlog(self) -> int:
        """See `Consumer.backlog`."""
        return sum(max(0, self._readable(number, lane) - lane.position) for number, lane in self._lanes)

    async def lag(self) -> int:
        """See `Consumer.lag`. Without I/O while fetches are answered, which tells the log's end twice a second.

        Raises:
            Unavailable: the log's end is old and no broker tells it.
        """
        inner = self._inner
        if inner is not None and self._announced.is_set() and self._silence(inner) > FRESH:
            partitions = [TopicPartition(self._topic, number) for number, _ in self._lanes]
            try:
                ends = await inner.end_offsets(partitions)
            except _TROUBLE as exc:
                raise Unavailable(f"the end of {self._topic} cannot be read: {exc!r}") from None
            for number, lane in self._lanes:
                lane.end = max(lane.end, ends.get(TopicPartition(self._topic, number), 0))
        return sum(max(0, self._end(number, lane.end) - lane.committed) for number, lane in self._lanes)

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """See `Consumer.commit`."""
        if not offsets:
            return
        inner = self._inner
        lanes = dict(self._lanes)
        if inner is None or not self._announced.is_set() or not offsets.keys() <= lanes.keys():
            raise Unavailable(f"partitions {sorted(offsets)} of {self._topic} are not this member's now")
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT):
                marked = {number: offset_of(offset, self._name.id) for number, offset in offsets.items()}
                await inner.commit({TopicPartition(self._topic, number): told for number, told in marked.items()})
        except (*_TROUBLE, IllegalStateError) as exc:
            raise Unavailable(f"offsets of {self._topic} were not committed: {exc!r}") from None
        for number, offset in offsets.items():
            lanes[number].committed = offset


class _Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]
    """aiokafka's side of ownership."""

    def __init__(self, consumer: KafkaConsumer, inner: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self._inner = inner

    def on_partitions_revoked(self, revoked: Any) -> None:
        """Called before every join, also the first.

        aiokafka forgets its member id when the coordinator does not know it. Joining under the old one lets the coordinator
        tell an evicted member (unknown: aiokafka then joins anew) from a replaced one (fenced: it must not steal back).
        """
        coordinator = self._inner._coordinator
        if not coordinator.member_id:
            coordinator.member_id = self._consumer.member
        if self._consumer.lives(self._inner):
            self._consumer._rebalances()

    def on_partitions_assigned(self, assigned: Any) -> None:
        """Called after every join."""
        if self._consumer.lives(self._inner):
            self._consumer._given(self._inner, assigned)
