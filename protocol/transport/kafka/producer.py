"""Publishing: one idempotent producer, and groups of records as ready-made batches.

Invariants:
- A group goes to one partition as one batch; a group above `MAX_BATCH` is sent as several, one after the other.
- The inner producer is replaced after any batch that it gave up: aiokafka counts the batch's sequence number as used, so that the
  broker would refuse everything that follows on that partition (OUT_OF_ORDER_SEQUENCE_NUMBER, forever).
- A replaced inner producer is stopped once no call uses it: one that waits for room or for metadata in it would hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import tenacity
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidProducerEpoch,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    ProducerFenced,
    UnknownProducerId,
)

from protocol.errors import NotFound, TooLarge, Unavailable
from protocol.frames import MAX_RECORD
from protocol.ports import OutRecord, Published
from protocol.runtime.tasks import BackgroundTasks
from protocol.transport.kafka.aiokafka_internals import fail_all_batches
from protocol.transport.kafka.aiokafka_produce import DirectProducer
from protocol.transport.kafka.connection import (
    MAX_BATCH,
    RETRY_BACKOFF,
    connection_options,
    partition_count,
    translated,
)
from protocol.transport.settings import TransportSettings

log = logging.getLogger(__name__)

PUBLISH_TIMEOUT: Final = 10.0
"""Seconds after which an unacknowledged group counts as failed; the inner producer still retries it."""
STOP_TIMEOUT: Final = 15.0
LONGEST_PAUSE: Final = 2.0
KNOWN_WITHIN: Final = 1.0
"""Seconds until all brokers know a topic that one of them has created."""

NO_BROKER: Final = "no connection to a broker could be made"

_UNNUMBERED: Final = (OutOfOrderSequenceNumber, UnknownProducerId, InvalidProducerEpoch, ProducerFenced, ProducerClosed)
"""Not appended, because the broker and this producer disagree on sequence numbers: a new producer may send it again."""
_ERRORS: Final = (KafkaError, OSError, TimeoutError)


class Producer:
    """Sends groups of records; replaces its inner producer after failures.

    Attributes:
        failure: why the newest connection was not made.
    """

    def __init__(self, settings: TransportSettings) -> None:
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None
        self._starting: asyncio.Task[AIOKafkaProducer] | None = None
        self._sending: dict[AIOKafkaProducer, int] = {}
        self._direct: dict[AIOKafkaProducer, DirectProducer] = {}
        self._stopping = BackgroundTasks("Kafka producer")
        self._partitions: dict[str, int] = {}
        self._turns: dict[str, int] = {}
        self._first_turn = os.getpid()  # processes that publish once do not all choose the first partition
        self._closed = False
        self.failure = "no connection was made"

    async def open(self) -> None:
        """Connect, with retries and jitter.

        Raises:
            Unavailable: no broker answered within the connect timeout.
        """
        self._closed = False
        limit = self._settings.connect_timeout
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_ERRORS),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=LONGEST_PAUSE),
        )
        try:
            async with asyncio.timeout(limit):
                await retrying(self.inner)
        except TimeoutError:
            await self.close()
            raise Unavailable(
                f"Kafka at {self._settings.kafka} did not answer within {limit:g} s: {self.failure}"
            ) from None

    async def close(self) -> None:
        """Send what is buffered and disconnect."""
        self._closed = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        for producer in list(self._sending):
            self._sending[producer] = 0
            self._retire(producer)
        if self._stopping:
            await asyncio.wait(tuple(self._stopping))

    async def inner(self) -> AIOKafkaProducer:
        """The running aiokafka producer; callers that find none wait for the same new one.

        Raises:
            KafkaError, OSError, TimeoutError: no broker answers.
        """
        if self._producer is not None:
            return self._producer
        if self._closed:
            raise ProducerClosed
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(self._start())
            self._starting.add_done_callback(self._started)
        return await asyncio.shield(self._starting)

    async def _start(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=MAX_BATCH,
            max_request_size=MAX_BATCH,
            **connection_options(self._settings),
        )
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT):
                await producer.start()
        except BaseException as exc:
            if str(exc):
                self.failure = NO_BROKER if isinstance(exc, KafkaConnectionError) else str(exc)
            await _stop(producer, DirectProducer(producer))
            raise
        producer.client.cluster.add_listener(lambda _cluster: self._partitions.clear())
        self._partitions.clear()
        self._producer = producer
        self._sending[producer] = 0
        self._direct[producer] = DirectProducer(producer)
        return producer

    def _started(self, starting: asyncio.Task[AIOKafkaProducer]) -> None:
        self._starting = None
        if not starting.cancelled():
            starting.exception()  # retrieved, even if every caller was cancelled

    def _retire(self, producer: AIOKafkaProducer) -> None:
        """Let the next call start a new one; stop this one in the background once no call sends through it."""
        if self._producer is producer:
            self._producer = None
        if self._sending.get(producer) == 0:
            del self._sending[producer]
            self._stopping.spawn(_stop(producer, self._direct.pop(producer)))

    async def partitions(self, topic: str) -> int:
        """How many partitions the topic has.

        Raises:
            NotFound: there is no such topic.
            Unavailable: no broker answers.
        """
        where = f"topic {topic} at {self._settings.kafka}"
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT):
                producer = await self.inner()
                with self._in_use(producer):
                    known = producer.client.cluster.partitions_for_topic(topic)
                    if known is None and await self._is_known(producer, topic):
                        known = await producer.partitions_for(topic)
        except _ERRORS as exc:
            raise translated(exc, where) from None
        if not known:
            raise NotFound(f"{where}: there is no such topic")
        self._partitions[topic] = len(known)
        return len(known)

    async def _count_again(self, topic: str) -> int:
        """How many partitions a topic has that seems to have too few: they may have been added."""
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT):
                producer = await self.inner()
                with self._in_use(producer):
                    await producer.client.force_metadata_update()
        except _ERRORS as exc:
            raise translated(exc, f"topic {topic} at {self._settings.kafka}") from None
        return await self.partitions(topic)

    async def _is_known(self, producer: AIOKafkaProducer, topic: str) -> bool:
        """Whether a broker knows the topic. Not all brokers know a new topic yet, so several are asked."""
        clock = asyncio.get_running_loop().time
        end = clock() + KNOWN_WITHIN
        while not await partition_count(producer.client, topic):
            if clock() > end:
                return False
            await asyncio.sleep(RETRY_BACKOFF)
        return True

    async def publish(self, topic: str, records: Sequence[OutRecord], partition: int | None) -> Published:
        """See `Bus.publish`. Without a partition the groups of a topic go to its partitions in turn."""
        count = self._partitions.get(topic) or await self.partitions(topic)
        if partition is None:
            turn = self._turns.get(topic, self._first_turn)
            self._turns[topic] = turn + 1
            partition = turn % count
        elif partition >= count:
            count = await self._count_again(topic)
        if not 0 <= partition < count:
            raise NotFound(f"topic {topic} has partitions 0 to {count - 1}, not {partition}")
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT):
                while True:
                    try:
                        return await self._deliver(topic, records, partition)
                    except _UNNUMBERED as exc:
                        if self._closed:
                            raise
                        log.info("a group for %s/%d is sent again by a new producer: %r", topic, partition, exc)
        except _ERRORS as exc:
            self._partitions.pop(topic, None)
            raise translated(exc, f"publishing to {topic} at {self._settings.kafka}") from None

    async def _deliver(self, topic: str, records: Sequence[OutRecord], partition: int) -> Published:
        """Send the group's batches one after the other; there is nearly always one."""
        producer = self._producer or await self.inner()
        first: Published | None = None
        for batch, stamp in _batches(producer, records):
            sent = await self._send(producer, batch, topic, partition)
            if sent.offset < 0:
                raise KafkaError("acknowledged as a duplicate whose offset the broker no longer knows")
            if first is None:
                appended = sent.timestamp is not None and sent.timestamp >= 0  # LogAppendTime
                first = Published(topic, partition, sent.offset, (sent.timestamp if appended else stamp) / 1000)
        assert first is not None, "publish needs a record"
        return first

    async def _send(self, producer: AIOKafkaProducer, batch: Any, topic: str, partition: int) -> Any:
        """Queue a batch and wait for its acknowledgement."""
        with self._in_use(producer):
            try:
                if (acknowledged := self._direct[producer].send(batch, topic, partition)) is not None:
                    return await acknowledged
                return await (await producer.send_batch(batch, topic, partition=partition))
            except KafkaTimeoutError:  # no room in its queue; no batch was given up
                raise
            except KafkaError:
                if self._producer is producer:
                    self._producer = None
                raise

    @contextlib.contextmanager
    def _in_use(self, producer: AIOKafkaProducer) -> Iterator[None]:
        """Keep an inner producer from being stopped, even if it is replaced meanwhile: what waits in a stopped one hangs.

        Raises:
            ProducerClosed: it was replaced before.
        """
        if producer not in self._sending:
            raise ProducerClosed
        self._sending[producer] += 1
        try:
            yield
        finally:
            if producer in self._sending:  # `close` may have removed it
                self._sending[producer] -= 1
                if self._producer is not producer:
                    self._retire(producer)


async def _stop(producer: AIOKafkaProducer, direct: DirectProducer) -> None:
    with contextlib.suppress(*_ERRORS):
        async with asyncio.timeout(STOP_TIMEOUT):
            await producer.stop()
            return
    # It would retry its batches forever: fail them, and disconnect.
    direct.close()
    with contextlib.suppress(*_ERRORS):
        await fail_all_batches(producer, ProducerClosed())


def _batches(producer: AIOKafkaProducer, records: Sequence[OutRecord]) -> list[tuple[Any, int]]:
    """The group's batches, each with its first record's time in milliseconds; one unless the group is above `MAX_BATCH`.

    Raises:
        TooLarge: a record is above the limit; nothing was sent.
    """
    now = int(time.time() * 1000)
    done: list[tuple[Any, int]] = []
    batch = None
    for record in records:
        size = len(record.value)
        if size > MAX_RECORD:
            raise TooLarge(f"a record of {size} bytes is above the limit of {MAX_RECORD}")
        stamp = round(record.timestamp * 1000) or now
        headers = record.headers if type(record.headers) is list else [*record.headers]
        if batch is None or not batch.append(timestamp=stamp, key=record.key, value=record.value, headers=headers):
            batch = producer.create_batch()
            batch.append(timestamp=stamp, key=record.key, value=record.value, headers=headers)
            done.append((batch, stamp))
            if batch.size() > MAX_BATCH:
                raise TooLarge(f"a record of {batch.size()} bytes with its headers is above the limit of {MAX_BATCH}")
    return done
