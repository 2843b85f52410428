"""Reading without a group: one record by its offset, or a small topic from its start on, without end."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
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
from protocol.transport.kafka.positions import TopicName, is_of_log
from protocol.transport.kafka.record import EVIDENCE, MAX_HEADERS
from protocol.transport.settings import TransportSettings

log = logging.getLogger(__name__)

POLL: Final = 5.0
HEADERS: Final = MAX_HEADERS + EVIDENCE
"""Headers of a record that are read: a dead letter has more than its original."""
GONE: Final = 3.0
"""Seconds after which an unknown topic counts as deleted: a starting broker knows none."""
ONE_BATCH: Final = 1
"""Bytes to fetch: a broker always sends the first batch whole, and with this limit no other."""


async def fetch_one(client: AIOKafkaClient, place: TopicPartition, offset: int) -> Record | None:
    """The record at this offset, or None if the log has no readable one there.

    Raises:
        KafkaError: the partition's leader does not answer.
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
    """The group's committed offsets by partition, without those of an earlier topic of this name.

    Raises:
        KafkaError: the group's coordinator does not answer.
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
        if offset >= 0 and is_of_log(OffsetAndMetadata(offset, metadata), offset, name.id)
    }


def _unreadable(record: Record) -> bool:
    if record.problem:
        log.error("%s/%d/%d is left out: %s", record.topic, record.partition, record.offset, record.problem)
    return bool(record.problem)


class Follower:
    """Reads one topic across reconnections: keeps the positions."""

    def __init__(
        self, settings: TransportSettings, topic: str, partitions: int, start: Mapping[int, int] | None = None
    ) -> None:
        self._settings = settings
        self._places = [TopicPartition(topic, number) for number in range(partitions)]
        self._next = {TopicPartition(topic, partition): offset for partition, offset in (start or {}).items()}
        self._caught_up = False
        self._budget = InflateBudget(headers=HEADERS)
        self._name = TopicName(topic)

    async def records(self) -> AsyncGenerator[Sequence[Record], None]:
        """New records until the connection is lost; one empty list at the end that the log had when reading began.

        Raises:
            KafkaError, OSError, TimeoutError: call again; it resumes, or starts over if the topic was created again.
            NotFound: the topic was deleted.
        """
        consumer = AIOKafkaConsumer(**consumer_limits(self._settings), **connection_options(self._settings))
        try:
            await consumer.start()
            fetch_when_free(consumer)
            decode_safely(consumer, self._budget)
            consumer.assign(self._places)
            await self._moved(client_of(consumer))  # before the first fetch, so that every record is of a known topic
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
        """Whether the topic was replaced: offsets start over.

        Raises:
            NotFound: it has been gone for `GONE` seconds.
        """
        moved = await self._name.moved(client)
        if self._name.gone_for(time.monotonic()) > GONE:
            raise NotFound(f"topic {self._places[0].topic} was deleted")
        if moved:
            await self._name.resolve(client)
            self._next.clear()
        return moved

    async def _at_end(self, consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> bool:
        """Compares positions, as the last records before the end may have been compacted away."""
        for place in self._places:
            if await consumer.position(place) < ends[place]:
                return False
        return True
