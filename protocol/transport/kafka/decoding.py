"""How fetched bytes become the port's records: any producer's bytes give records or one record with a `problem`, never an error."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from protocol.ports import Record
from protocol.transport.kafka.aiokafka_internals import FetchedRecords, use_decoder
from protocol.transport.kafka.batches import Batches, InflateBudget
from protocol.transport.kafka.record import RawRecord

log = logging.getLogger(__name__)

MAX_DRAINED: Final = 4096
"""Records taken from aiokafka in one call: a compressed megabyte can hold millions. The rest stays there, not decoded."""


class SafeRecords(FetchedRecords):
    """The records of one partition in one response, as the port's records."""

    def __init__(self, tp: TopicPartition, records: Batches, *more: Any) -> None:
        super().__init__(tp, records, *more)
        records.draining = True
        self._guarded = self._without_exceptions()

    def __iter__(self) -> Iterator[Record]:
        return self._guarded

    def __next__(self) -> Record:
        return next(self._guarded)

    def convert(self, place: TopicPartition, record: Any) -> Record:
        """See `as_record`."""
        return as_record(place.topic, place.partition, record)

    def _without_exceptions(self) -> Iterator[Record]:
        """One record with a problem for a batch that cannot be unpacked: an exception would drop other partitions' records."""
        while True:
            try:
                yield from self.unpack()
                return
            except Exception as exc:
                batch, error = self.batches.current, exc
            if batch is None:
                return
            log.error("a batch of %s cannot be read", self.place, exc_info=error)
            self.next_fetch_offset = batch.next_offset
            problem = f"offsets {batch.base_offset} to {batch.next_offset - 1} cannot be read: {error!r}"
            yield Record(self.place.topic, self.place.partition, batch.next_offset - 1, 0.0, b"", (), None, problem)


def as_record(topic: str, partition: int, record: Any) -> Record:
    """A record of aiokafka's, or a `RawRecord`, in the port's form. A null value becomes an empty one."""
    return Record(
        topic, partition, record.offset, (record.timestamp or 0) / 1000, record.value or b"", record.headers, record.key,
        record.problem if type(record) is RawRecord else "",
    )  # fmt: skip


def decode_safely(inner: AIOKafkaConsumer, budget: InflateBudget) -> None:
    """Make a consumer decode by `Batches` and return the port's records.

    aiokafka's own decoding inflates without a limit, and raises on a header name that is not UTF-8 or a broken batch, which drops
    what it had read from other partitions.

    Args:
        inner: started.
        budget: what it may inflate; the reader refills it.
    """
    use_decoder(inner, functools.partial(Batches, budget=budget), SafeRecords)
