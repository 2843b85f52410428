"""Records that a consumer has fetched and not yet handed out: one buffer per owned partition, served in turn. Pure."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from protocol.ports import Assigned, Record

OVERHEAD: Final = 256
"""Bytes that a record takes besides its value, key and headers."""
HEADER_OVERHEAD: Final = 128


class PartitionBuffer:
    """The buffered records of one partition.

    Attributes:
        records: in order, each with the bytes that it takes.
        position: the offset after the last record handed out.
        tail: the offset after the last record fetched.
        committed: the committed offset that this member knows of.
        end: the log's end at assignment.
    """

    __slots__ = ("committed", "end", "position", "records", "tail")

    def __init__(self, assigned: Assigned) -> None:
        self.records: collections.deque[tuple[Record, int]] = collections.deque()
        self.position = self.tail = max(assigned.committed, assigned.start)
        self.committed = assigned.committed
        self.end = assigned.end


@dataclasses.dataclass(slots=True)
class PartitionBuffers:
    """The buffers of all owned partitions.

    Attributes:
        bytes: taken by all buffered records.
    """

    bytes: int = 0
    _buffers: dict[int, PartitionBuffer] = dataclasses.field(default_factory=dict)
    _turn: int = 0

    def open(self, assigned: Iterable[Assigned]) -> None:
        """Start with empty buffers for these partitions."""
        self._buffers = {entry.partition: PartitionBuffer(entry) for entry in assigned}
        self.bytes = 0

    def close(self) -> list[int]:
        """Drop all records; returns the partitions that were open."""
        partitions = list(self._buffers)
        self.open(())
        return partitions

    def __iter__(self) -> Iterator[tuple[int, PartitionBuffer]]:
        return iter(self._buffers.items())

    def __contains__(self, partition: int) -> bool:
        return partition in self._buffers

    def add(self, partition: int, records: Sequence[Record]) -> None:
        """Append records that follow the buffer's tail."""
        buffer = self._buffers[partition]
        for record in records:
            size = weight(record)
            self.bytes += size
            buffer.records.append((record, size))
        buffer.tail = records[-1].offset + 1

    def take(self, most: int, partitions: Collection[int] | None = None) -> list[Record]:
        """At most `most` records, in order within each partition; the partitions take turns at being first, in equal shares.

        Ordered by age instead, the partition of a producer whose clock is ahead would starve under load.
        """
        waiting = [
            (number, buffer)
            for number, buffer in self._buffers.items()
            if buffer.records and (partitions is None or number in partitions)
        ]
        if not waiting:
            return []
        first = self._turn % len(waiting)
        self._turn += 1
        taken: list[Record] = []
        order = waiting[first:] + waiting[:first]
        for left, (_, buffer) in enumerate(order):
            self._move(buffer, -(-(most - len(taken)) // (len(order) - left)), taken)
        for _, buffer in order:
            self._move(buffer, most - len(taken), taken)
        return taken

    def _move(self, buffer: PartitionBuffer, count: int, taken: list[Record]) -> None:
        """Up to `count` records from the buffer's head."""
        records = buffer.records
        count = min(count, len(records))
        if count == 0:
            return
        for _ in range(count):
            record, size = records.popleft()
            self.bytes -= size
            taken.append(record)
        buffer.position = taken[-1].offset + 1


def weight(record: Record) -> int:
    """Roughly the bytes that a record takes; some records are headers only, or empty."""
    size = OVERHEAD + len(record.value)
    if record.key is not None:
        size += len(record.key)
    for name, value in record.headers:
        size += len(name) + len(value or b"") + HEADER_OVERHEAD
    return size
