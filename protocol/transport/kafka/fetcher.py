"""What a member has fetched of its partitions, and how it fetches more.

Invariant: everything that aiokafka has fetched is drained at once into a buffer per partition. What is drained together with an
error is fetched again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from protocol.errors import Unavailable
from protocol.transport.kafka.aiokafka_internals import positions_of
from protocol.transport.kafka.batches import InflateBudget
from protocol.transport.kafka.buffers import PartitionBuffer, PartitionBuffers
from protocol.transport.kafka.decoding import MAX_DRAINED
from protocol.transport.kafka.health import FetchHealth

log = logging.getLogger(__name__)

BUFFERED_BYTES: Final = 32 * 1024 * 1024
"""Bytes of records in the buffers above which nothing more is drained or inflated; one more fetch may be on its way."""
FRESH: Final = 2.0
"""Seconds that the log's end, as the last fetch told it, is good enough for a lag."""
QUIET: Final = 1.0
"""Seconds without records and without an error, after which fetching counts as working."""
ERROR_PAUSE: Final = 0.1
NOWHERE: Final = TopicPartition("", -1)
"""Holds nothing: asking for it polls without taking, while asking for no partition would mean all."""


class Fetcher:
    """The partitions of one topic that a member owns. The consumers that are passed in are its inner one, or None without one.

    Args:
        topic: its name.

    Attributes:
        buffers: what was fetched.
        room: what may be inflated yet.
        health: why nothing comes.
        since: when the partitions came, on the wall clock.
    """

    def __init__(self, topic: str) -> None:
        self.buffers = PartitionBuffers()
        self.budget = InflateBudget()
        self.health = FetchHealth()
        self.since = 0.0
        self._topic = topic

    @property
    def full(self) -> bool:
        """Whether so much waits to be taken that no more is fetched."""
        return self.buffers.bytes >= BUFFERED_BYTES

    def _place(self, number: int) -> TopicPartition:
        return TopicPartition(self._topic, number)

    # --- fetching ---

    async def drain(self, inner: AIOKafkaConsumer, timeout: float, goes_on: Callable[[], bool]) -> BaseException | None:
        """Move what aiokafka has fetched into the lanes; waits for some where there is none.

        Args:
            inner: where from.
            timeout: seconds; 0 takes what is there.
            goes_on: whether the partitions are still this member's.

        Returns:
            The error where fetching failed; it is tried again with the next call.
        """
        left = self.budget.left = BUFFERED_BYTES - self.buffers.bytes
        where = () if left > 0 else (NOWHERE,)
        try:
            if timeout == 0:
                fetched = await inner.getmany(*where, max_records=MAX_DRAINED)
            else:  # it ends by itself, except that it would wait out a rebalance that begins meanwhile
                async with asyncio.timeout(timeout):
                    fetched = await inner.getmany(*where, timeout_ms=timeout * 1000, max_records=MAX_DRAINED)
        except TimeoutError:
            return None
        except Exception as exc:  # whichever it is, what was drained with it is fetched again
            self.health.failed(repr(exc), time.monotonic())
            log.warning("fetching from %s failed: %r", self._topic, exc)
            if goes_on():
                self._seek_back(inner)
            await asyncio.sleep(min(timeout, ERROR_PAUSE))
            return exc
        if fetched or timeout > QUIET:
            self.health.succeeded()
        for partition, records in fetched.items():
            if partition.partition in self.buffers:
                self.buffers.add(partition.partition, records)
        return None

    def _seek_back(self, inner: AIOKafkaConsumer) -> None:
        for number, buffer in self.buffers:
            with contextlib.suppress(IllegalStateError):
                inner.seek(self._place(number), buffer.tail)

    def positions(self, inner: AIOKafkaConsumer | None) -> dict[int, int]:
        """Per partition where the next fetch begins; empty buffers are moved there over what is no record."""
        if inner is not None:
            empty = {self._place(number): buffer for number, buffer in self.buffers if not buffer.records}
            for place, position in positions_of(inner, empty).items():
                if position > empty[place].tail:
                    empty[place].position = empty[place].tail = position
        return {number: buffer.position for number, buffer in self.buffers}

    def silence(self, inner: AIOKafkaConsumer) -> float:
        """Seconds since the last answer to a fetch, or since the partitions came; 0 where there are none."""
        polls = [inner.last_poll_timestamp(self._place(number)) or 0 for number, _ in self.buffers]
        return time.time() - max(self.since, max(polls) / 1000) if polls else 0.0

    # --- how much there is ---

    def backlog(self, inner: AIOKafkaConsumer | None) -> int:
        """Records behind what was taken. Not those behind an open transaction: nobody knows when that ends."""
        return sum(max(0, self._readable(inner, number, buffer) - buffer.position) for number, buffer in self.buffers)

    async def lag(self, inner: AIOKafkaConsumer | None, *, fresh: bool) -> int:
        """Records at or behind the committed offsets; the broker is asked where the last fetch is old and `fresh` does not hold.

        Raises:
            Unavailable: the log's end is old and no broker tells it.
        """
        if inner is not None and not fresh and self.silence(inner) > FRESH:
            try:
                ends = await inner.end_offsets([self._place(number) for number, _ in self.buffers])
            except (KafkaError, OSError, TimeoutError) as exc:
                raise Unavailable(f"the end of {self._topic} cannot be read: {exc!r}") from None
            for number, buffer in self.buffers:
                buffer.end = max(buffer.end, ends.get(self._place(number), 0))
        return sum(max(0, self._end(inner, number, buffer) - buffer.committed) for number, buffer in self.buffers)

    def _end(self, inner: AIOKafkaConsumer | None, number: int, buffer: PartitionBuffer) -> int:
        """The log's end as the last fetch told it; as it was at assignment before the first."""
        told = inner.highwater(self._place(number)) if inner is not None else None
        return max(told or 0, buffer.end)

    def _readable(self, inner: AIOKafkaConsumer | None, number: int, buffer: PartitionBuffer) -> int:
        """The same without what is behind an open transaction."""
        told = inner.last_stable_offset(self._place(number)) if inner is not None else None
        return max(told or 0, buffer.end)
