"""The batches of a fetch behind the interface of aiokafka's `MemoryRecords`: its decoder, with limits and without exceptions.

Invariants:
- Nothing here raises, whatever the broker sent: an exception would drop what the same call read from other partitions.
- Every offset of a batch is a record, or is covered by a record with a `problem`, which has the last offset that it covers.
- No batch inflates to more than `MAX_INFLATED`; what is drained at once, to no more than the budget and one such batch.
- A batch with a wrong checksum is fetched a second time: only if the same bytes come again is it broken in the log.
"""

from __future__ import annotations

import collections
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

from protocol.errors import FleetError
from protocol.transport.kafka.aiokafka_internals import DefaultRecordBatch, LegacyRecordBatch
from protocol.transport.kafka.inflating import CODECS, MEBIBYTE, inflate
from protocol.transport.kafka.record import MAX_HEADERS, Frame, RawRecord, crowded, read_records

MAX_INFLATED: Final = 32 * MEBIBYTE
"""Bytes that one compressed batch may inflate to: two of the largest records, and as much as a member keeps unread."""
LARGE: Final = 256 * 1024
"""Bytes of a record above which its headers are counted before they are read."""
MAX_REMEMBERED: Final = 256

_HEAD: Final = struct.Struct(">q13xhi16xq")
"""Base offset, attributes, last offset delta, producer id; the fields between them are skipped."""
_TIMES_AND_COUNT: Final = struct.Struct(">qq14xi")
_TIMES_AT: Final = 27
_SIZE: Final = 61
_LENGTH: Final = struct.Struct(">qi")
_BEFORE_LENGTH_COUNTS: Final = 12
_MAGIC_AT: Final = 16
_ATTRIBUTES_AT: Final = 21
_CODEC: Final = 0x07
_APPEND_TIME: Final = 0x08
_TRANSACTIONAL: Final = 0x10
_CONTROL: Final = 0x20
_MOST_RECORDS: Final = 1 << 24

__all__ = ["MAX_HEADERS", "MAX_INFLATED", "Batches", "InflateBudget"]


class InflateBudget:
    """How much one reader may inflate before its records must be handed out, and which broken batches it has met.

    Attributes:
        left: bytes; a batch is inflated while some are left.
        headers: how many headers of a record are read.
    """

    __slots__ = ("_broken", "headers", "left")

    def __init__(self, left: int = MAX_INFLATED, headers: int = MAX_HEADERS) -> None:
        self.left = left
        self.headers = headers
        self._broken: collections.OrderedDict[tuple[int, int, int], None] = collections.OrderedDict()

    def met_before(self, offset: int, data: memoryview) -> bool:
        """Whether these bytes were met at this offset before; remembers them."""
        seen = (offset, len(data), zlib.crc32(data))
        if seen in self._broken:
            return True
        self._broken[seen] = None
        if len(self._broken) > MAX_REMEMBERED:
            self._broken.popitem(last=False)
        return False


class Batch:
    """One batch of the current format (magic 2); aiokafka's fetcher uses the public attributes and `next`."""

    __slots__ = (
        "_attributes",
        "_budget",
        "_data",
        "_plain",
        "_problem",
        "base_offset",
        "is_control_batch",
        "is_transactional",
        "next_offset",
        "producer_id",
    )  # fmt: skip

    def __init__(self, data: memoryview, budget: InflateBudget) -> None:
        self.base_offset, attributes, delta, self.producer_id = _HEAD.unpack_from(data)
        self.next_offset: int = self.base_offset + 1 + (delta if 0 <= delta < _MOST_RECORDS else 0)
        self.is_transactional = attributes & _TRANSACTIONAL != 0
        self.is_control_batch = attributes & _CONTROL != 0
        self._attributes: int = attributes
        self._data = data
        self._budget = budget
        self._plain: Any = DefaultRecordBatch(data)
        self._problem = ""

    def intact(self) -> bool:
        """Whether the checksum matches."""
        return bool(self._plain.validate_crc())

    def give_up(self, problem: str) -> None:
        """Distrust the header's flags; all offsets become one broken record."""
        self._problem = problem
        self.producer_id = None
        self.is_transactional = self.is_control_batch = False

    def validate_crc(self) -> bool:
        """True: `Batches` has checked it."""
        return True

    def __next__(self) -> Any:
        return next(iter(self._plain))  # the only record of a control batch

    def __iter__(self) -> Iterator[Any]:
        if self._problem:
            yield self._broken(self._problem)
            return
        data, plain = self._data, self._plain
        if self._attributes & _CODEC:
            try:
                data = self._inflated()
            except FleetError as exc:
                yield self._broken(exc.message)
                return
            plain = DefaultRecordBatch(data)
        last, most = self.base_offset - 1, self._budget.headers
        if len(data) < LARGE or not crowded(data[_SIZE:], self._frame().count, LARGE, most):
            try:
                for record in plain:
                    if len(record.headers) > most or not last < record.offset < self.next_offset:
                        break
                    last = record.offset
                    yield record
                else:
                    return
            except Exception:  # noqa: S110  # `read_records` finds out what is wrong
                pass
        yield from read_records(self._frame(), data[_SIZE:], last, most)

    def _frame(self) -> Frame:
        first, last, count = _TIMES_AND_COUNT.unpack_from(self._data, _TIMES_AT)
        return Frame(self.base_offset, self.next_offset, count, first, last, bool(self._attributes & _APPEND_TIME))

    def _inflated(self) -> memoryview:
        """The batch, decompressed."""
        head = bytearray(self._data[:_SIZE])
        head[_ATTRIBUTES_AT + 1] &= ~_CODEC & 0xFF
        try:
            plain = inflate(self._attributes & _CODEC, self._data[_SIZE:], MAX_INFLATED, bytes(head))
        except FleetError:
            self._budget.left -= MAX_INFLATED
            raise
        self._budget.left -= len(plain)
        return plain

    def _broken(self, problem: str) -> RawRecord:
        codec, frame = self._attributes & _CODEC, self._frame()
        how = f", {CODECS.get(codec, f'codec {codec}')}" if codec else ""
        problem = f"offsets {frame.base} to {frame.end - 1} cannot be read (a batch of {len(self._data)} bytes{how}): {problem}"
        return RawRecord(frame.end - 1, frame.last_timestamp, problem=problem)


class LegacyBatch:
    """A message, or a compressed message set, in the format before Kafka 0.11 (magic 0 and 1)."""

    producer_id = None
    is_transactional = False
    is_control_batch = False

    def __init__(self, data: memoryview, magic: int) -> None:
        self._plain: Any = LegacyRecordBatch(data, magic)
        self._compressed = bool(data[_MAGIC_AT + 1] & _CODEC)
        (self.base_offset,) = struct.unpack_from(">q", data)
        self.next_offset = self.base_offset + 1

    def intact(self) -> bool:
        """Whether the checksum matches."""
        return bool(self._plain.validate_crc())

    def give_up(self, problem: str) -> None:
        """The whole batch becomes one broken record."""
        self._plain = [RawRecord(self.base_offset, None, problem=problem)]

    def validate_crc(self) -> bool:
        """True: `Batches` has checked it."""
        return True

    def __iter__(self) -> Iterator[Any]:
        if self._compressed:
            self.give_up("a compressed batch in the format before Kafka 0.11 is not supported")
        yield from self._plain


class Batches:
    """All batches of one partition in one answer of a broker, in the order of the log.

    Attributes:
        current: the batch that `next_batch` returned last.
        draining: whether records are being taken; before that the fetch loop only asks whether there are any.
    """

    __slots__ = ("_at", "_budget", "_data", "_next", "current", "draining")

    def __init__(self, data: bytes, budget: InflateBudget) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._budget = budget
        self._next: Batch | LegacyBatch | None = None
        self.current: Batch | LegacyBatch | None = None
        self.draining = False

    def size_in_bytes(self) -> int:
        """0: a broker always sends the first batch whole, and the next response has what it cut off."""
        return 0

    def has_next(self) -> bool:
        """Whether a batch follows. False without budget: the batch is then fetched again later."""
        if self.draining and self._budget.left <= 0:
            return False
        if self._next is None:
            self._next = self._read()
        return self._next is not None

    def next_batch(self) -> Batch | LegacyBatch:
        """The next batch; call only if `has_next`."""
        assert self._next is not None
        self.current, self._next = self._next, None
        return self.current

    def _read(self) -> Batch | LegacyBatch | None:
        left = len(self._data) - self._at
        if left <= _MAGIC_AT:
            return None
        offset, length = _LENGTH.unpack_from(self._data, self._at)
        size = length + _BEFORE_LENGTH_COUNTS
        if not _MAGIC_AT < size <= left:
            return None
        data = self._data[self._at : self._at + size]
        magic = data[_MAGIC_AT]
        if magic > 1 and size < _SIZE:
            return None
        batch = Batch(data, self._budget) if magic > 1 else LegacyBatch(data, magic)
        if not batch.intact():
            if not self._budget.met_before(offset, data):
                return None  # it may have been damaged in transit
            batch.give_up("its checksum is wrong")
        self._at += size
        return batch
