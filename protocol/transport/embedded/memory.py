"""The transport of one process, in memory: the quick start, the test bed, and `penstock serve` without `--data-dir`.

Buses that share a `MemoryBroker`, and stores that share a `MemoryServer`, behave like the processes of a fleet.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any, Final

from protocol.codec import micros
from protocol.errors import NotFound, TooLarge, Unavailable, quoted
from protocol.frames import MAX_RECORD
from protocol.messages import Heartbeat, Pulse, pulse_of
from protocol.ports import (
    Cancel,
    Claim,
    Claimed,
    Consumer,
    FinishOutcome,
    ImmediateBus,
    ImmediateResults,
    Listener,
    OutRecord,
    Place,
    Published,
    Record,
    RequestState,
    Terminal,
    Wake,
)
from protocol.runtime.microtasks import Microtasks
from protocol.totals import KeptTotals, Key
from protocol.transport.embedded.broker import MemoryBroker
from protocol.transport.embedded.consumer import MemoryConsumer, Topic
from protocol.transport.embedded.fence import Fences, counted
from protocol.transport.settings import TransportSettings

RESULTS_LIMIT: Final = 512 * 1024 * 1024
"""Bytes of results that are kept, unless another limit is given."""


class MemoryBus:
    """A bus on an embedded broker; see `protocol.ports.Bus`. Without a broker it creates one."""

    def __init__(self, broker: MemoryBroker | None = None, microtasks: Microtasks | None = None) -> None:
        self._broker = broker or MemoryBroker()
        self._microtasks = microtasks or Microtasks()
        self._turns: dict[str, int] = {}
        self._consumers: list[MemoryConsumer] = []
        self._following: set[asyncio.Future[None]] = set()
        self._is_open = False

    def another(self) -> MemoryBus:
        """A bus of another process on the same broker, not yet open."""
        return MemoryBus(self._broker, self._microtasks)

    async def open(self) -> None:
        """Connect."""
        if not self._is_open:
            await self._broker.open()
            self._is_open = True

    async def close(self) -> None:
        """Disconnect: its consumers stop, without leaving their groups, and its followers end."""
        if not self._is_open:
            return
        self._is_open = False
        for consumer in self._consumers:
            await consumer.close()
        for waiter in self._following:
            if not waiter.done():
                waiter.set_result(None)
        await self._broker.close()

    @property
    def immediate(self) -> ImmediateBus | None:
        """This bus."""
        return self

    async def healthy(self) -> bool:
        """Whether the bus is open and its broker takes records."""
        return self._is_open and await self._broker.healthy()

    async def ensure_topic(self, topic: str, partitions: int, *, compacted: bool = False) -> int:
        """See `Bus.ensure_topic`."""
        self._check_open()
        return await self._broker.ensure_topic(topic, partitions, compacted=compacted)

    async def raise_partitions(self, topic: str, partitions: int) -> int:
        """See `Bus.raise_partitions`."""
        self._check_open()
        return await self._broker.raise_partitions(topic, partitions)

    async def partitions(self, topic: str) -> int:
        """See `Bus.partitions`."""
        self._check_open()
        found = self._broker.topics.get(topic)
        return 0 if found is None else len(found.logs)

    async def publish(self, topic: str, records: Sequence[OutRecord], partition: int | None = None) -> Published:
        """See `Bus.publish`. In memory it is acknowledged without yielding to the event loop."""
        return await self._broker.append(*self._place(topic, records, partition), records)

    def publish_now(self, topic: str, records: Sequence[OutRecord]) -> Published:
        """See `ImmediateBus.publish_now`."""
        found, partition = self._place(topic, records, None)
        self._broker.check_room()
        return self._broker.apply_append(found, partition, records, time.time())

    def _place(self, topic: str, records: Sequence[OutRecord], partition: int | None) -> tuple[Topic, int]:
        """The topic, and the partition that the records go to."""
        self._check_open()
        found = self._broker.topic(topic)
        for record in records:
            if record.size > MAX_RECORD:
                raise TooLarge(f"a record of {record.size} bytes is over the limit of {MAX_RECORD}")
        if partition is None:
            partition = self._turns[topic] = (self._turns.get(topic, -1) + 1) % len(found.logs)
        elif not 0 <= partition < len(found.logs):
            raise NotFound(f"topic {quoted(topic)} has no partition {partition}: it has {len(found.logs)}")
        return found, partition

    async def subscribe(self, topic: str, group: str, member: str, listener: Listener) -> Consumer:
        """See `Bus.subscribe`. Partitions are assigned before it returns."""
        self._check_open()
        found = self._broker.topic(topic)
        await self._broker.add_group(found, group)
        consumer = MemoryConsumer(found, group, member, listener, self._broker, self._microtasks)
        self._broker.join(consumer)
        self._consumers = [other for other in self._consumers if not other.closed]
        self._consumers.append(consumer)
        return consumer

    async def follow(self, topic: str, start: Mapping[int, int] | None = None) -> AsyncIterator[Sequence[Record]]:
        """See `Bus.follow`. Ends when the bus is closed."""
        self._check_open()
        found = self._broker.topic(topic)
        begin = start or {}
        positions = [max(log.start, begin.get(partition, 0)) for partition, log in enumerate(found.logs)]
        if past := _advance(found, positions):
            yield past
        yield []
        while self._is_open:
            if records := _advance(found, positions):
                yield records
                continue
            waiter = asyncio.get_running_loop().create_future()
            found.followers.add(waiter)
            self._following.add(waiter)
            try:
                await waiter
            finally:
                found.followers.discard(waiter)
                self._following.discard(waiter)

    async def read_record(self, topic: str, partition: int, offset: int) -> Record | None:
        """See `Bus.read_record`. A record is kept until every group has committed it, so at least until it has its answer."""
        self._check_open()
        found = self._broker.topics.get(topic)
        if found is None or not 0 <= partition < len(found.logs):
            return None
        return found.logs[partition].record_at(offset)

    async def committed(self, topic: str, group: str) -> Mapping[int, int]:
        """See `Bus.committed`."""
        self._check_open()
        found = self._broker.topics.get(topic)
        return dict(found.groups[group].committed) if found is not None and group in found.groups else {}

    async def extents(self, topics: Collection[str]) -> Mapping[str, Mapping[int, tuple[int, int]]]:
        """See `Bus.extents`."""
        self._check_open()
        known = {topic: found for topic in topics if (found := self._broker.topics.get(topic)) is not None}
        return {
            topic: {partition: (log.start, log.end) for partition, log in enumerate(found.logs)}
            for topic, found in known.items()
        }

    async def evict(self, group: str, members: Sequence[str]) -> None:
        """See `Bus.evict`."""
        self._check_open()
        self._broker.evict(group, members)

    def _check_open(self) -> None:
        if not self._is_open:
            raise Unavailable("the embedded bus is closed")


def _advance(topic: Topic, positions: list[int]) -> list[Record]:
    records: list[Record] = []
    for partition, log in enumerate(topic.logs):
        if positions[partition] < log.end:
            records += log.slice(positions[partition], log.end)
            positions[partition] = log.end
    return records


class MemoryServer:
    """The shared state of all stores of one process: streams, totals, listeners and heartbeats.

    Args:
        limit: bytes of kept results (`fill` is the used share); above it claims are refused.
    """

    def __init__(self, limit: int = RESULTS_LIMIT) -> None:
        self.limit = limit
        self.fences = Fences()
        self.totals = KeptTotals()
        self.wakes: dict[str, dict[MemoryStore, Callable[[list[Wake]], None]]] = {}
        self.cancels: dict[str, dict[MemoryStore, Callable[[list[Cancel]], None]]] = {}
        self.heartbeats: dict[str, Heartbeat] = {}
        self.answers: dict[str, Heartbeat] = {}
        self.asks: dict[MemoryStore, Callable[[str], None]] = {}
        self.waiting: dict[MemoryStore, Callable[[str], None]] = {}


class MemoryStore:
    """Results and directory in memory; see `protocol.ports.Results` and `Directory`.

    The event loop calls back with wake-ups, once per channel and `finish`. Because such a wake-up cannot be lost, a plain answer
    that was small enough for it is not kept: `look` then reports "done" with the payload b"", as of a trimmed one.
    """

    def __init__(
        self, settings: TransportSettings, server: MemoryServer | None = None, microtasks: Microtasks | None = None
    ) -> None:
        self._server = server or MemoryServer()
        self._microtasks = microtasks or Microtasks()
        self._settings = settings
        self._result_ttl = settings.result_ttl
        self._is_open = False

    def another(self) -> MemoryStore:
        """A store of another process on the same results, not yet open."""
        return MemoryStore(self._settings, self._server, self._microtasks)

    async def open(self) -> None:
        """Connect."""
        self._is_open = True

    async def close(self) -> None:
        """Disconnect, and stop listening."""
        self._is_open = False
        for listeners in (self._server.wakes, self._server.cancels):
            for channel in list(listeners):
                self._unsubscribe(listeners, channel)
        self._server.asks.pop(self, None)
        self._server.waiting.pop(self, None)

    async def healthy(self) -> bool:
        """Whether the store is open."""
        return self._is_open

    async def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    async def fill(self) -> float:
        """Share of the limit that is used by kept results."""
        return min(1.0, self._server.fences.size / self._server.limit)

    # --- results -----------------------------------------------------------------------------------------------------

    @property
    def immediate(self) -> ImmediateResults | None:
        """This store."""
        return self

    async def finish(self, answers: Sequence[Terminal]) -> list[FinishOutcome]:
        """See `Results.finish`."""
        return self.finish_now(answers)

    def finish_now(self, answers: Sequence[Terminal]) -> list[FinishOutcome]:
        """See `ImmediateResults.finish_now`."""
        self._check_open()
        fences, now = self._server.fences, time.time()
        outcomes, wakes = fences.finish(answers, now, self._result_ttl, self._server.wakes)
        self._server.totals.count(*counted(answers, outcomes))
        self._wake(wakes)
        fences.expire(now, 2 * len(answers))
        return outcomes

    async def totals(self, versions: Sequence[Key]) -> list[dict[str, int]]:
        """See `Results.totals`."""
        self._check_open()
        return self._server.totals.read(versions)

    async def claim(self, claim: Claim) -> Claimed:
        """See `Results.claim`. Raises Unavailable when the store is full."""
        self._check_open()
        self._check_room()
        now = time.time()
        self._server.fences.expire(now, 2)
        return self._server.fences.claim(claim, now)

    async def confirm(self, ref: str, published: bool, place: Place | None = None) -> None:
        """See `Results.confirm`."""
        self._check_open()
        self._server.fences.confirm(ref, published, time.time(), place)

    async def start(self, refs: Sequence[str], worker: str, ttl: float) -> list[int]:
        """See `Results.start`."""
        self._check_open()
        now = time.time()
        return [self._server.fences.start(ref, worker, ttl, now) for ref in refs]

    async def look(self, refs: Sequence[str]) -> list[RequestState | None]:
        """See `Results.look`."""
        self._check_open()
        now = time.time()
        return [self._server.fences.look(ref, now) for ref in refs]

    async def trim(self, refs: Sequence[str]) -> None:
        """See `Results.trim`."""
        self._check_open()
        now = time.time()
        for ref in refs:
            self._server.fences.trim(ref, now)

    async def release(self, refs: Sequence[str]) -> None:
        """See `Results.release`."""
        self._check_open()
        now = time.time()
        for ref in refs:
            self._server.fences.release(ref, now)

    # --- wake-ups and cancels ----------------------------------------------------------------------------------------

    async def listen(self, channel: str, on_wake: Callable[[list[Wake]], None]) -> None:
        """See `Results.listen`."""
        self._check_open()
        self._server.wakes.setdefault(channel, {})[self] = on_wake

    async def cancel(self, channel: str, cancels: Sequence[Cancel]) -> None:
        """See `Results.cancel`."""
        self._check_open()
        loop = asyncio.get_running_loop()
        rounded = [Cancel(cancel.ref, micros(cancel.until) / 1e6) for cancel in cancels]
        for on_cancel in self._server.cancels.get(channel, {}).values():
            loop.call_soon(on_cancel, list(rounded))

    async def listen_cancels(self, channel: str, on_cancel: Callable[[list[Cancel]], None]) -> None:
        """See `Results.listen_cancels`."""
        self._check_open()
        self._server.cancels.setdefault(channel, {})[self] = on_cancel

    async def unlisten(self, channel: str) -> None:
        """See `Results.unlisten`."""
        self._unsubscribe(self._server.wakes, channel)
        self._unsubscribe(self._server.cancels, channel)

    def _wake(self, wakes: dict[str, list[Wake]]) -> None:
        for channel, hints in wakes.items():
            for on_wake in self._server.wakes.get(channel, {}).values():
                self._microtasks.add(on_wake, hints)

    def _unsubscribe(self, listeners: dict[str, dict[MemoryStore, Any]], channel: str) -> None:
        stores = listeners.get(channel, {})
        stores.pop(self, None)
        if not stores:
            listeners.pop(channel, None)

    # --- the directory -----------------------------------------------------------------------------------------------

    async def beat(self, heartbeat: Heartbeat) -> None:
        """See `Directory.beat`."""
        self._check_open()
        self._server.heartbeats[heartbeat.worker] = heartbeat

    async def workers(self) -> list[Heartbeat]:
        """See `Directory.workers`."""
        self._check_open()
        return list(self._server.heartbeats.values())

    async def forget(self, worker: str) -> None:
        """See `Directory.forget`."""
        self._check_open()
        self._server.heartbeats.pop(worker, None)
        self._server.answers.pop(worker, None)

    async def pulses(self, workers: Collection[str] | None = None) -> list[Pulse]:
        """See `Directory.pulses`."""
        self._check_open()
        beats = self._server.heartbeats.values()
        return [pulse_of(beat) for beat in beats if workers is None or beat.worker in workers]

    async def answer(self, heartbeat: Heartbeat) -> None:
        """See `Directory.answer`; the answer stays until the next one."""
        await self.beat(heartbeat)
        self._server.answers[heartbeat.worker] = heartbeat

    async def answers(self, workers: Collection[str]) -> list[Heartbeat]:
        """See `Directory.answers`."""
        self._check_open()
        server = self._server
        found = [server.answers.get(worker) or server.heartbeats.get(worker) for worker in workers]
        return [beat for beat in found if beat is not None]

    async def ask(self, ask: str) -> None:
        """See `Directory.ask`."""
        self._check_open()
        loop = asyncio.get_running_loop()
        for on_ask in self._server.asks.values():
            loop.call_soon(on_ask, ask)

    async def hint_waiting(self, topic: str) -> None:
        """See `Directory.hint_waiting`."""
        self._check_open()
        loop = asyncio.get_running_loop()
        for on_hint in self._server.waiting.values():
            loop.call_soon(on_hint, topic)

    async def listen_waiting(self, on_hint: Callable[[str], None]) -> None:
        """See `Directory.listen_waiting`."""
        self._check_open()
        self._server.waiting[self] = on_hint

    async def listen_asks(self, on_ask: Callable[[str], None]) -> None:
        """See `Directory.listen_asks`."""
        self._check_open()
        self._server.asks[self] = on_ask

    def _check_open(self) -> None:
        if not self._is_open:
            raise Unavailable("the embedded result store is closed")

    def _check_room(self) -> None:
        if self._server.fences.size > self._server.limit:
            raise Unavailable(
                f"the embedded result store is full: it keeps {self._server.fences.size} bytes of {self._server.limit}",
                retry_after=1.0,
            )
