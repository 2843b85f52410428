"""The usual fetch past aiokafka's tasks. Like `aiokafka_internals`, this module may use aiokafka's private names.

Invariants:
- Only a fetch that succeeds is handled here. aiokafka's own code gets every error, and looks for leaders and positions.
- Fetched records stay where aiokafka keeps them until `take` hands them out.
- The next fetch is sent by `fetch_more`, when its caller needs records: under load it then finds many, and a broker's cost is
  mostly per fetch, and more for one that must wait there (decision 12).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import types
from collections.abc import Iterator
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.protocol.fetch import FetchResponse_v11

from protocol.transport.kafka import wire
from protocol.transport.kafka.aiokafka_exchange import Answered, Exchange, open_connection

__all__ = ["fetch_directly", "fetch_more", "polling", "take", "wait_for_records"]


class _Fetch(Exchange):
    """One broker's fetches, one after the other, while they succeed.

    Attributes:
        over: done with what ended it: a response or an error for aiokafka, or None if aiokafka is to look for itself.
    """

    def __init__(self, fetching: _Fetching, assignment: Any, node: int) -> None:
        super().__init__()
        self.over: asyncio.Future[bytes | BaseException | None] = asyncio.get_running_loop().create_future()
        self.wanted: dict[TopicPartition, int] = {}
        self._fetching = fetching
        self._assignment = assignment
        self._node = node
        self._in_flight = False

    def begin(self) -> bool:
        """Send the next fetch, unless one is in flight or records wait to be taken. False: aiokafka must look for itself."""
        fetcher = self._fetching.fetcher
        if self._in_flight or fetcher._records:
            return True
        if self.over.done() or not self._assignment.active:
            return False
        wanted = {}
        for place in self._assignment.tps:
            state = self._assignment.state_value(place)
            if fetcher._select_read_replica(place) != self._node:
                if fetcher._select_read_replica(place) in (None, -1):
                    return False
                continue
            if not state.has_valid_position or state.paused:
                return False
            wanted[place] = state.position
        topics = {place.topic for place in wanted}
        connection = open_connection(fetcher._client, self._node, wire.FETCH)
        if len(topics) != 1 or connection is None:
            return False
        self.wanted = wanted
        (topic,) = topics
        order = [(place.partition, offset) for place, offset in wanted.items()]
        random.shuffle(order)  # a response that is full has the first ones
        limits = (
            fetcher._fetch_max_wait_ms,
            fetcher._fetch_min_bytes,
            fetcher._fetch_max_bytes,
            fetcher._max_partition_fetch_bytes,
        )
        self._in_flight = True
        self.send(connection, wire.FETCH, wire.fetch(topic.encode(), order, limits, fetcher._isolation_level))
        return True

    def proceed(self) -> None:
        """The same; ends if aiokafka must look for itself."""
        if not self.begin():
            self._finish(None)

    def _finish(self, outcome: bytes | BaseException | None) -> None:
        if not self.over.done():
            self.over.set_result(outcome)

    def on_response(self, body: bytes) -> None:
        self._in_flight = False
        if self.over.done() or not self._assignment.active:
            self._finish(None)
            return
        found = wire.fetched(body)
        if found is None:
            self._finish(body)
        elif self._keep(found):
            self._fetching.wake()
        else:
            self.proceed()

    def on_error(self, error: BaseException) -> None:
        self._in_flight = False
        self._finish(error)

    def _keep(self, found: list[wire.Fetched]) -> bool:
        """Put the records where aiokafka keeps them; whether there are any."""
        fetcher, now = self._fetching.fetcher, int(1000 * time.time())
        positions = {place.partition: (place, offset) for place, offset in self.wanted.items()}
        any_records = False
        for each in found:
            place, offset = positions[each.partition]
            state = self._assignment.state_value(place)
            if not state.has_valid_position or state.position != offset:
                continue  # it was moved meanwhile
            state.highwater, state.lso, state.timestamp = each.end, each.stable, now
            batches = self._fetching.batches(each.data)
            if batches.has_next():
                records = self._fetching.records(
                    place, batches, each.aborted, offset, None, None, fetcher._check_crcs, fetcher._isolation_level
                )
                fetcher._records[place] = FetchResult(
                    place, partition_records=records, assignment=self._assignment, backoff=fetcher._prefetch_backoff
                )
                any_records = True
        return any_records


class _Fetching:
    """The fetches of one consumer; `fetch_directly` makes it."""

    def __init__(self, fetcher: Any) -> None:
        self.fetcher = fetcher
        self._process = fetcher._proc_fetch_request.__func__
        self.batches = self._process.__globals__["MemoryRecords"]
        self.records = self._process.__globals__["PartitionRecords"]
        self._running: set[_Fetch] = set()

    async def run(self, assignment: Any, node: int, request: Any) -> bool:
        """In place of aiokafka's `_proc_fetch_request`, whose task ends with each fetch."""
        fetch = _Fetch(self, assignment, node)
        if not fetch.begin():
            ended: bool = await self._process(self.fetcher, assignment, node, request)
            return ended
        self._running.add(fetch)
        try:
            outcome = await fetch.over
        except asyncio.CancelledError:
            return False  # closed, or unassigned
        finally:
            self._running.discard(fetch)
        if outcome is None:
            return False
        limit = self.fetcher._max_partition_fetch_bytes
        asked = [(place.topic, [(place.partition, offset, limit)]) for place, offset in fetch.wanted.items()]
        request = types.SimpleNamespace(topics=asked)
        more: bool = await self._process(_Stand(self.fetcher, outcome), assignment, node, request)
        return more

    def wake(self) -> None:
        """Wake those who wait for records."""
        for waiter in tuple(self.fetcher._fetch_waiters):
            self.fetcher._notify(waiter)

    def serves(self, place: TopicPartition) -> bool:
        """Whether the next fetch of this partition is sent here."""
        return any(place in fetch.wanted for fetch in self._running)

    def proceed(self) -> None:
        """Records were taken."""
        for fetch in tuple(self._running):
            fetch.proceed()


class _Stand:
    """A fetcher whose client has the answer already."""

    def __init__(self, fetcher: Any, outcome: bytes | BaseException) -> None:
        self._fetcher = fetcher
        self._client = Answered(fetcher._client, FetchResponse_v11, outcome)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fetcher, name)


def fetch_directly(inner: AIOKafkaConsumer) -> None:
    """Send a consumer's fetches past aiokafka's tasks. Its records are then taken by `take`, not by `getmany`.

    Args:
        inner: started; `use_decoder` was called.
    """
    fetcher: Any = inner._fetcher
    fetcher._proc_fetch_request = _Fetching(fetcher).run


def take(inner: AIOKafkaConsumer, most: int) -> dict[TopicPartition, list[Any]]:
    """The fetched records, at most so many: aiokafka's `getmany` without waiting.

    Raises:
        KafkaError: fetching or the coordination failed. What `getmany` raises.
    """
    inner._coordinator.check_errors()
    fetcher: Any = inner._fetcher
    if fetcher._subscriptions.reassignment_in_progress:
        return {}
    direct = _fetching_of(fetcher)
    taken: dict[TopicPartition, list[Any]] = {}
    for place, result in tuple(fetcher._records.items()):
        if type(result) is not FetchResult:
            if not taken:
                del fetcher._records[place]
                fetcher._notify(fetcher._wait_consume_future)
                result.check_raise()
            break
        records = result.getall(most)
        if not result.has_more():
            del fetcher._records[place]
            if direct is None or not direct.serves(place):
                fetcher._notify(fetcher._wait_consume_future)
        if records:
            taken[place] = records
            most -= len(records)
            if most == 0:
                break
    return taken


def fetch_more(inner: AIOKafkaConsumer) -> None:
    """Send the next fetches, where none is in flight and all fetched records were taken."""
    direct = _fetching_of(inner._fetcher)
    if direct is not None:
        direct.proceed()


def _fetching_of(fetcher: Any) -> _Fetching | None:
    owner = getattr(fetcher._proc_fetch_request, "__self__", None)
    return owner if isinstance(owner, _Fetching) else None


@contextlib.contextmanager
def polling(inner: AIOKafkaConsumer) -> Iterator[None]:
    """While this runs the member counts as alive (`max_poll_interval_ms`)."""
    with inner._subscription.fetch_context():
        yield


async def wait_for_records(inner: AIOKafkaConsumer, timeout: float) -> None:
    """Return when records or an error come, at the latest after `timeout` seconds."""
    fetcher: Any = inner._fetcher
    waiter = fetcher._create_fetch_waiter()
    timer = asyncio.get_running_loop().call_later(timeout, fetcher._notify, waiter)
    try:
        await waiter
    finally:
        timer.cancel()
