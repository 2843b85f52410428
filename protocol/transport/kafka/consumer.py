"""One static member of one group on one topic.

Invariants:
- Fetched records are drained from aiokafka at once into a buffer per partition: while it holds unread records of a partition it
  does not fetch that partition, and after 100 ms it waits up to `fetch_max_wait` for the others alone.
- Buffers are dropped at revocation; assigned partitions are fetched again from their committed offsets.
- No record is handed out before its partition and offsets were announced to the listener.
- Only committed transactions are read. Records after an open transaction wait until it ends.
- A log that was replaced (its topic was created again, it was truncated, or the next record was deleted) is never skipped: its
  partitions are announced again, with an epoch that ends everything in flight.
- A member whose `group.instance.id` was taken over by another process stops; an evicted member joins again.
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
from protocol.transport.kafka.aiokafka_fetch import fetch_directly
from protocol.transport.kafka.aiokafka_internals import (
    abort_fetches,
    client_of,
    close_for_good,
    coordinator_of,
    fetch_when_free,
    has_failed,
    keep_member_id,
)
from protocol.transport.kafka.assignor import StickyAssignor
from protocol.transport.kafka.connection import FencedInstanceIdError, connection_options, consumer_limits, leave_group
from protocol.transport.kafka.decoding import decode_safely
from protocol.transport.kafka.fetcher import ERROR_PAUSE, Fetcher
from protocol.transport.kafka.positions import TopicName, offset_of, read_positions
from protocol.transport.kafka.rebalance_hints import RebalanceProbe
from protocol.transport.settings import TransportSettings

log = logging.getLogger(__name__)

COMMIT_TIMEOUT: Final = 5.0
STOP_TIMEOUT: Final = 15.0
WATCH_INTERVAL: Final = 1.0
TOPIC_INTERVAL: Final = 2.0
"""Seconds between checks whether the topic's id is still the same."""
MAKE_AGAIN: Final = 3.0
"""Seconds after which this member creates a deleted topic again; the operator who deleted it may create it first."""
STALE: Final = 30.0
"""Seconds without a response to a fetch after which the inner consumer is replaced."""
RESTART_PAUSE: Final = (0.1, 3.0)
_ERRORS: Final = (KafkaError, OSError, TimeoutError)


class KafkaConsumer:
    """`protocol.ports.Consumer` on aiokafka; made by `KafkaBus.subscribe`.

    `on_rebalance` is called when this member learns of a rebalance from the coordinator, without a hint from another member.
    `make_topic` creates the topic again, with as many partitions as before.
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
        self._probe = RebalanceProbe(on_rebalance)
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
        self._fetcher = Fetcher(topic)
        self._given_before: frozenset[int] = frozenset()
        self._announced = asyncio.Event()
        self._announcing: asyncio.Task[None] | None = None
        self._polled = False
        self._replaced = False
        self._closed = False
        self._running = asyncio.get_running_loop().create_task(self._run())

    @property
    def member(self) -> str:
        """See `Consumer.member`."""
        return self._member

    # --- life ---

    async def _run(self) -> None:
        """Keep an inner consumer running until another process takes over this member."""
        pause, longest = RESTART_PAUSE
        while not self._replaced:
            inner = self._living = self._new_inner()
            try:
                await inner.start()
                fetch_when_free(inner)
                decode_safely(inner, self._fetcher.budget)
                fetch_directly(inner)
                pause = RESTART_PAUSE[0]
                log.warning("the consumer of %s is replaced: %s", self._topic, await self._watch(inner))
                await self._leave(inner)
            except _ERRORS as exc:
                self._on_error(exc)
            except Exception:
                log.exception("the consumer of %s failed and is replaced", self._topic)
            finally:
                self._inner = self._living = None
                self._probe.close()
                self._take_away()
                await self._stop(inner)
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
        log.error("%s", self._why_ended())

    async def _leave(self, inner: AIOKafkaConsumer) -> None:
        """Leave the group, so that it assigns its partitions again: a static member that only rejoins keeps what it had."""
        if self._leaves and not self._replaced:
            self._leaves = False
            async with asyncio.timeout(COMMIT_TIMEOUT):
                await leave_group(client_of(inner), self.group, [self._instance], self._member)

    def _on_error(self, error: BaseException) -> None:
        """Log an error of aiokafka's, and note whether it means that this member was replaced."""
        log.warning("the consumer of %s: %r", self._topic, error)
        self._fetcher.health.failed(repr(error), time.monotonic())
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
        """Returns why the inner consumer cannot continue."""
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
                coordinator_of(inner).check_errors()  # it does nothing until its error is taken
            except KafkaError as exc:
                self._on_error(exc)
            if has_failed(inner):
                return "a task of aiokafka has ended"
            # Without a poll, or with full buffers, no response is due.
            due = self._polled and not self._fetcher.full
            stale = stale + WATCH_INTERVAL if due and self._fetcher.silence(inner) > STALE else 0.0
            if stale > STALE / 3:
                return f"no response to a fetch for {STALE:g} s"
        return "it was replaced"

    async def _look_at_topic(self, inner: AIOKafkaConsumer) -> None:
        with contextlib.suppress(*_ERRORS, Unavailable):  # then it is checked again
            async with asyncio.timeout(COMMIT_TIMEOUT):
                if await self._name.moved(client_of(inner)):
                    self._leaves, self._astray = True, "its topic was deleted and created again"
                elif self._name.partitions > _known_partitions(inner, self._topic) > 0:
                    # aiokafka joins its group again when it sees more; by itself it looks every five minutes
                    log.info("topic %s has %d partitions now", self._topic, self._name.partitions)
                    await client_of(inner).force_metadata_update()
                elif self._name.gone_for(time.monotonic()) > MAKE_AGAIN:
                    log.warning("topic %s was deleted while it is being served; creating it again", self._topic)
                    await self._make_topic()

    async def _stop(self, inner: AIOKafkaConsumer) -> None:
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await inner.stop()
        except _ERRORS as exc:
            log.warning("the consumer of %s did not stop cleanly: %r", self._topic, exc)
        finally:
            await close_for_good(client_of(inner))

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

    def on_rebalance_hint(self) -> None:
        """Ask the coordinator whether the group is rebalancing, unless that is known."""
        if self._inner is not None and self._announced.is_set():
            self._probe.ask(coordinator_of(self._inner))

    def lives(self, inner: AIOKafkaConsumer) -> bool:
        """Whether it may be assigned partitions: an inner consumer that is being stopped still joins rebalances."""
        return inner is self._living

    def _rebalances(self) -> None:
        if self._epoch:  # the first join needs no hint: it starts the rebalance
            self._probe.rebalancing()
        self._take_away()

    def _take_away(self) -> None:
        """Revoke all partitions: the group rebalances, or the inner consumer ends."""
        if self._announcing is not None:
            self._announcing.cancel()
            self._announcing = None
        self._announced.clear()
        partitions = self._fetcher.buffers.close()
        if partitions and not self._closed:
            self._listener.revoked(partitions)

    def _given(self, inner: AIOKafkaConsumer, partitions: Collection[TopicPartition]) -> None:
        self._inner = inner
        self._probe.stable()
        self._member = coordinator_of(inner).member_id
        given = frozenset(partition.partition for partition in partitions)
        if self._given_before and given - self._given_before:
            abort_fetches(client_of(inner))
        self._given_before = given
        self._announcing = asyncio.get_running_loop().create_task(self._announce(inner, sorted(partitions)))

    async def _announce(self, inner: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> None:
        """Read each partition's offsets, then announce the partitions; retried until the next rebalance."""
        while True:
            try:
                entries, anew = await self._positions(inner, partitions)
                break
            except _ERRORS as exc:
                log.warning("the offsets of %s cannot be read yet: %r", self._topic, exc)
                self._fetcher.health.failed(f"its offsets cannot be read: {exc!r}", time.monotonic())
                await asyncio.sleep(ERROR_PAUSE)
        self._announcing = None
        self._fetcher.health.succeeded()
        if not entries and not self._epoch:
            # Its former partitions may be of a deleted topic of this name. A spare member is assigned none again.
            self._leaves, self._astray = True, "it rejoined and was assigned no partition"
        self._fetcher.buffers.open(entries)
        # A step of two means that the log was replaced, or another member was in between: nothing in flight may continue.
        self._epoch += 2 if anew and self._epoch else 1
        self._fetcher.since = time.time()
        self._announced.set()
        self._listener.assigned(self._epoch, entries)

    async def _positions(
        self, inner: AIOKafkaConsumer, partitions: Sequence[TopicPartition]
    ) -> tuple[list[Assigned], bool]:
        """Each partition's offsets, and whether any partition starts anew; its start is then committed, which pins it."""
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
            Unavailable: another process has joined as this member, or the consumer was closed, so that no record will follow; or
                fetching has failed for some seconds, and is retried.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        remaining = timeout
        if self._fetcher.buffers.bytes or timeout <= 0:  # with empty buffers the loop below drains, and waits
            await self._drain(0.0)
        while not (records := self._fetcher.buffers.take(max_records, partitions)):
            if self._replaced or self._closed:
                raise Unavailable(self._why_ended())
            if self._name.gone:
                raise Unavailable(f"topic {self._topic} no longer exists")
            if remaining <= 0:
                if why := self._fetcher.health.lasting_failure(time.monotonic()):
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
        """Drain fetched records, if partitions are assigned."""
        self._polled = True
        if self._inner is not None and self._announced.is_set():
            error = await self._fetcher.drain(self._inner, timeout, self._announced.is_set)
            if isinstance(error, OffsetOutOfRangeError):
                self._astray = "its log was truncated, created again, or deleted at its position"

    def positions(self) -> dict[int, int]:
        """See `Consumer.positions`."""
        return self._fetcher.positions(self._inner if self._announced.is_set() else None)

    # --- offsets ---

    def backlog(self) -> int:
        """See `Consumer.backlog`."""
        return self._fetcher.backlog(self._inner)

    async def lag(self) -> int:
        """See `Consumer.lag`. Without I/O while fetches are answered: their responses carry the log's end twice a second.

        Raises:
            Unavailable: the known log end is old, and no broker answers.
        """
        return await self._fetcher.lag(self._inner, fresh=not self._announced.is_set())

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """See `Consumer.commit`."""
        if not offsets:
            return
        inner = self._inner
        buffers = dict(self._fetcher.buffers)
        if inner is None or not self._announced.is_set() or not offsets.keys() <= buffers.keys():
            raise Unavailable(f"partitions {sorted(offsets)} of {self._topic} are not this member's now")
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT):
                marked = {number: offset_of(offset, self._name.id) for number, offset in offsets.items()}
                await inner.commit({TopicPartition(self._topic, number): value for number, value in marked.items()})
        except (*_ERRORS, IllegalStateError) as exc:
            raise Unavailable(f"offsets of {self._topic} were not committed: {exc!r}") from None
        for number, offset in offsets.items():
            buffers[number].committed = offset


class _Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]
    """aiokafka's callbacks for rebalances."""

    def __init__(self, consumer: KafkaConsumer, inner: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self._inner = inner

    def on_partitions_revoked(self, revoked: Any) -> None:
        """Called before every join, including the first.

        aiokafka drops its member id when the coordinator does not know it. Joining under the old id lets the coordinator
        distinguish an evicted member (unknown: aiokafka then joins anew) from a replaced one (fenced: it must
        not take its place back).
        """
        keep_member_id(self._inner, self._consumer.member)
        if self._consumer.lives(self._inner):
            self._consumer._rebalances()

    def on_partitions_assigned(self, assigned: Any) -> None:
        """Called after every join."""
        if self._consumer.lives(self._inner):
            self._consumer._given(self._inner, assigned)


def _known_partitions(inner: AIOKafkaConsumer, topic: str) -> int:
    """How many partitions aiokafka knows."""
    return len(client_of(inner).cluster.partitions_for_topic(topic) or ())
