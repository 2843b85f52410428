"""How a member fetches, and how many records wait for it.

Invariant: fetched records are drained from aiokafka at once into a buffer per partition; records drained together with an error are
fetched again.
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
from protocol.ports import Record
from protocol.transport.kafka.aiokafka_fetch import fetch_more, polling, take, wait_for_records
from protocol.transport.kafka.aiokafka_internals import positions_of
from protocol.transport.kafka.batches import InflateBudget
from protocol.transport.kafka.buffers import PartitionBuffer, PartitionBuffers
from protocol.transport.kafka.decoding import MAX_DRAINED
from protocol.transport.kafka.health import FetchHealth

log = logging.getLogger(__name__)

BUFFERED_BYTES: Final = 32 * 1024 * 1024
"""Bytes of buffered records above which no more are drained or inflated; one more fetch may be in flight."""
FRESH: Final = 2.0
"""Seconds for which the log's end from the last fetch is good enough for a lag."""
QUIET: Final = 1.0
"""Seconds without records or an error after which fetching counts as working."""
ERROR_PAUSE: Final = 0.1


class Fetcher:
    """Fetches the owned partitions of one topic. `inner` is the member's aiokafka consumer, or None while it has none.

    Args:
        topic: its name.

    Attributes:
        buffers: the fetched records.
        budget: how much may still be inflated.
        health: whether fetching fails, and why.
        since: when the partitions were assigned, on the wall clock.
    """

    def __init__(self, topic: str) -> None:
        self.buffers = PartitionBuffers()
        self.budget = InflateBudget()
        self.health = FetchHealth()
        self.since = 0.0
        self._topic = topic

    @property
    def full(self) -> bool:
        """Whether fetching has stopped because enough is buffered."""
        return self.buffers.bytes >= BUFFERED_BYTES

    def _place(self, number: int) -> TopicPartition:
        return TopicPartition(self._topic, number)

    # --- fetching ---

    async def drain(self, inner: AIOKafkaConsumer, timeout: float, goes_on: Callable[[], bool]) -> BaseException | None:
        """Move fetched records into the buffers; waits for some if there are none.

        Args:
            inner: the consumer to drain.
            timeout: seconds; 0 does not wait.
            goes_on: whether the partitions are still this member's.

        Returns:
            The error if fetching failed; the next call retries.
        """
        try:
            with polling(inner):
                fetched = self._take(inner)
                if not fetched or timeout == 0:
                    fetch_more(inner)
                if not fetched and timeout > 0:
                    await wait_for_records(inner, timeout)
                    fetched = self._take(inner) if goes_on() else {}
        except Exception as exc:  # after any error, what was drained with it is fetched again
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

    def _take(self, inner: AIOKafkaConsumer) -> dict[TopicPartition, list[Record]]:
        """What was fetched, unless enough is buffered."""
        self.budget.left = BUFFERED_BYTES - self.buffers.bytes
        return take(inner, MAX_DRAINED) if self.budget.left > 0 else {}

    def _seek_back(self, inner: AIOKafkaConsumer) -> None:
        for number, buffer in self.buffers:
            with contextlib.suppress(IllegalStateError):
                inner.seek(self._place(number), buffer.tail)

    def positions(self, inner: AIOKafkaConsumer | None) -> dict[int, int]:
        """The offset of the next fetch per partition; moves empty buffers past markers and aborted transactions."""
        if inner is not None:
            empty = {self._place(number): buffer for number, buffer in self.buffers if not buffer.records}
            for place, position in positions_of(inner, empty).items():
                if position > empty[place].tail:
                    empty[place].position = empty[place].tail = position
        return {number: buffer.position for number, buffer in self.buffers}

    def silence(self, inner: AIOKafkaConsumer) -> float:
        """Seconds since the last response to a fetch, or since the assignment; 0 without partitions."""
        polls = [inner.last_poll_timestamp(self._place(number)) or 0 for number, _ in self.buffers]
        return time.time() - max(self.since, max(polls) / 1000) if polls else 0.0

    # --- how much there is ---

    def backlog(self, inner: AIOKafkaConsumer | None) -> int:
        """Records after the position, without those after an open transaction, which may end at any time."""
        return sum(max(0, self._readable(inner, number, buffer) - buffer.position) for number, buffer in self.buffers)

    async def lag(self, inner: AIOKafkaConsumer | None, *, fresh: bool) -> int:
        """Records at or after the committed offsets; asks a broker if the last fetch is old, unless `fresh`.

        Raises:
            Unavailable: the known log end is old, and no broker answers.
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
        """The log's end by the last fetch; before the first, the end at assignment."""
        end = inner.highwater(self._place(number)) if inner is not None else None
        return max(end or 0, buffer.end)

    def _readable(self, inner: AIOKafkaConsumer | None, number: int, buffer: PartitionBuffer) -> int:
        """The last stable offset: records after an open transaction are above it."""
        end = inner.last_stable_offset(self._place(number)) if inner is not None else None
        return max(end or 0, buffer.end)
