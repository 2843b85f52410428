"""Reading without a group: one record by its offset, or a small topic from its start for ever."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import LeaderNotAvailableError, NoError, OffsetOutOfRangeError
from aiokafka.structs import OffsetAndMetadata

from protocol.errors import NotFound
from protocol.ports import Record
from protocol.transport.kafka.aiokafka_internals import (
    AIOKafkaClient,
    ConnectionGroup,
    CoordinationType,
    FetchRequest,
    OffsetFetchRequest,
    client_of,
    close_for_good,
    fetch_when_free,
    for_code,
)
from protocol.transport.kafka.batches import MAX_INFLATED, Batches, InflateBudget
from protocol.transport.kafka.connection import MAX_BATCH, connection_options, consumer_limits
from protocol.transport.kafka.decoding import MAX_DRAINED, as_record, decode_safely
from protocol.transport.kafka.positions import TopicName, counts
from protocol.transport.kafka.record import EVIDENCE, MAX_HEADERS
from protocol.transport.settings import TransportSettings

log = logging.getLogger(__name__)

POLL: Final = 5.0
HEADERS: Final = MAX_HEADERS + EVIDENCE
"""Of a record: dead letters have more than what they were made of."""
GONE: Final = 3.0
"""Seconds after which a topic that a broker does not know counts as deleted: a broker that starts knows none."""
ONE_BATCH: Final = 1
"""Bytes asked for: a broker always sends the first batch whole, and then no more than that."""


async def fetch_one(client: AIOKafkaClient, place: TopicPartition, offset: int) -> Record | None:
    """The record at this offset, or None where the log has none there that can be read.

    Raises:
        KafkaError: the partition's leader cannot be asked.
    """
    leader = client.cluster.leader_for_partition(place)
    if leader is None or leader == -1:
        raise LeaderNotAvailableError(place)
    asked = [(place.topic, [(place.partition, offset, ONE_BATCH)])]
    response = await client.send(leader, FetchRequest(0, 0, MAX_BATCH, 0, asked))
    ((_, ((_, code, *_, data),)),) = response.topics
    error = for_code(code)
    if error is OffsetOutOfRangeError:
        return None
    if error is not NoError:
        raise error(place)
    batches = Batches(data, InflateBudget(headers=HEADERS))
    while batches.has_next():
        for found in batches.next_batch():
            if found.offset == offset:
                record = as_record(place.topic, place.partition, found)
                return record if not record.problem else None
    return None


async def fetch_committed(client: AIOKafkaClient, group: str, topic: str, partitions: int) -> dict[int, int]:
    """What the group has committed on this topic, by partition, and not on an earlier one of its name.

    Raises:
        KafkaError: the group's coordinator cannot be asked.
    """
    name = TopicName(topic)
    await name.resolve(client)
    coordinator = await client.coordinator_lookup(CoordinationType.GROUP, group)
    request = OffsetFetchRequest(group, [(topic, list(range(partitions)))])
    response = await client.send(coordinator, request, group=ConnectionGroup.COORDINATION)
    found = [entry for _, entries in response.topics for entry in entries]
    for code in (getattr(response, "error_code", 0), *(code for *_, code in found)):
        error = for_code(code)
        if error is not NoError:
            raise error(group)
    return {
        partition: offset
        for partition, offset, metadata, _ in found
        if offset >= 0 and counts(OffsetAndMetadata(offset, metadata), offset, name.id)
    }


def _unreadable(record: Record) -> bool:
    if record.problem:
        log.error("%s/%d/%d is left out: %s", record.topic, record.partition, record.offset, record.problem)
    return bool(record.problem)


class Follower:
    """Where the reading of one topic stands, across reconnections."""

    def __init__(self, settings: TransportSettings, topic: str, partitions: int) -> None:
        self._settings = settings
        self._places = [TopicPartition(topic, number) for number in range(partitions)]
        self._next: dict[TopicPartition, int] = {}
        self._caught_up = False
        self._budget = InflateBudget(headers=HEADERS)
        self._name = TopicName(topic)

    async def records(self) -> AsyncGenerator[Sequence[Record], None]:
        """What comes, until the connection is lost; an empty list once, where the log ended when reading began.

        Raises:
            KafkaError, OSError, TimeoutError: begin again; it goes on where it was, or at the start of a topic made again.
            NotFound: the topic was deleted.
        """
        consumer = AIOKafkaConsumer(**consumer_limits(self._settings), **connection_options(self._settings))
        try:
            await consumer.start()
            fetch_when_free(consumer)
            decode_safely(consumer, self._budget)
            consumer.assign(self._places)
            await self._moved(
                client_of(consumer)
            )  # before anything is read: it may be another one when there is time to ask
            starts = await consumer.beginning_offsets(self._places)
            ends = await consumer.end_offsets(self._places)
            for place in self._places:
                consumer.seek(place, max(self._next.get(place, 0), starts[place]))
            while True:
                if not self._caught_up and await self._at_end(consumer, ends):
                    self._caught_up = True
                    yield []
                self._budget.left = MAX_INFLATED
                fetched = await consumer.getmany(timeout_ms=POLL * 1000, max_records=MAX_DRAINED)
                for place, got in fetched.items():
                    self._next[place] = got[-1].offset + 1
                if not fetched and await self._moved(client_of(consumer)):
                    return
                if records := [record for got in fetched.values() for record in got if not _unreadable(record)]:
                    yield records
        finally:
            await consumer.stop()
            await close_for_good(client_of(consumer))

    async def _moved(self, client: AIOKafkaClient) -> bool:
        """Whether the topic is another one now: its offsets begin anew.

        Raises:
            NotFound: there has been none for some seconds.
        """
        moved = await self._name.moved(client)
        if self._name.gone_for(time.monotonic()) > GONE:
            raise NotFound(f"topic {self._places[0].topic} was deleted")
        if moved:
            await self._name.resolve(client)
            self._next.clear()
        return moved

    async def _at_end(self, consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> bool:
        """By position: the last records before the end may have been compacted away."""
        for place in self._places:
            if await consumer.position(place) < ends[place]:
                return False
        return True
