"""One partition's records in memory: appended at the end, dropped at the start, or compacted by key. Pure."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from protocol.ports import OutRecord, Record


class PartitionLog:
    """The records from `start` up to `end`, exclusive; a compacted log has gaps.

    Attributes:
        start: the lowest offset that may still exist.
        end: the offset of the next record.
        size: bytes that its records count as.
    """

    __slots__ = ("_compacted", "_first_message", "_keys", "_records", "end", "size", "start")

    def __init__(self, *, compacted: bool = False, start: int = 0) -> None:
        self.start = start
        self.end = start
        self.size = 0
        self._records: list[Record] = []
        self._keys: set[bytes | None] = set()
        self._compacted = compacted
        self._first_message = start
        """All records from here on carry messages."""

    def append(self, topic: str, partition: int, records: Sequence[OutRecord], now: float) -> int:
        """Add records at the end; returns the first one's offset."""
        first = offset = self.end
        for record in records:
            stamp = record.timestamp or now
            placed = Record(
                topic, partition, offset, stamp, record.value, record.headers, record.key, "", record.request, record.request_size
            )  # fmt: skip
            self._records.append(placed)
            self.size += record.size
            offset += 1
            if record.request is None:
                self._first_message = offset
        self.end = offset
        if self._compacted:
            self._keys.update(record.key for record in records)
        return first

    def restore(self, record: Record) -> None:
        """Append a saved record, in the order of offsets.

        Raises:
            ValueError: there is a gap before it.
        """
        if record.offset != self.end and not self._compacted:
            raise ValueError(f"{record.topic}/{record.partition} has a gap before offset {record.offset}")
        self._records.append(record)
        self._keys.add(record.key)
        self.size += record.size
        self.end = self._first_message = record.offset + 1

    def slice(self, offset: int, count: int) -> list[Record]:
        """At most `count` records from `offset` on."""
        first = self._index(offset)
        return self._records[first : first + count]

    def carries(self, offset: int) -> bool:
        """Whether all records from `offset` on carry messages."""
        return self.end <= offset or self._first_message <= offset

    def record_at(self, offset: int) -> Record | None:
        """The record at this offset, or None."""
        found = self.slice(offset, 1)
        return found[0] if found and found[0].offset == offset else None

    def behind(self, offset: int) -> int:
        """Number of records from `offset` on."""
        if self._compacted:
            return len(self._records) - self._index(offset)
        return max(self.end - offset, 0) if offset > self.start else len(self._records)

    def drop(self, before: int) -> None:
        """Drop the records below an offset. A compacted log keeps them."""
        if self._compacted or before <= self.start:
            return
        count = self._index(before)
        self.size -= sum([record.size for record in self._records[:count]])
        del self._records[:count]
        self.start = min(before, self.end)

    def excess(self, size: int) -> int:
        """The offset below which records must be dropped so that at most `size` bytes remain."""
        over = self.size - size
        for record in self._records:
            if over <= 0:
                return record.offset
            over -= record.size
        return self.end

    def compact(self) -> list[int]:
        """Drop records that a later one of the same key replaces, once they are the majority; returns their offsets."""
        if not self._compacted or len(self._records) < 2 * len(self._keys) + 64:
            return []
        last = {record.key: record.offset for record in self._records}
        dropped = [record.offset for record in self._records if last[record.key] != record.offset]
        self._records = [record for record in self._records if last[record.key] == record.offset]
        self.size = sum(record.size for record in self._records)
        return dropped

    def _index(self, offset: int) -> int:
        if self._compacted:
            return bisect.bisect_left(self._records, offset, key=lambda record: record.offset)
        return min(max(offset - self.start, 0), len(self._records))
