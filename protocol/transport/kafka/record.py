"""Reads the records of a batch whatever its bytes: returns records, some with a `problem`, and raises nothing. Pure.

aiokafka's decoder is much faster and reads nearly everything. This one reads what it refuses: a header name that is not UTF-8
(an invalid byte becomes `\\xff`), too many headers, and as much as it can of malformed records.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Final

from protocol.errors import CodecError

MAX_HEADERS: Final = 1000
"""Headers of a record that are read. A request of ours has twelve; a header takes a hundred bytes here, and two in the log."""
EVIDENCE: Final = 100
"""Headers that a dead letter may have besides the original's; readers without a group read this many more."""
MAX_VARINT: Final = 70

Bytes = bytes | memoryview


@dataclasses.dataclass(slots=True)
class RawRecord:
    """A record with the attributes of aiokafka's, and why it is damaged or incomplete.

    Attributes:
        timestamp: in milliseconds; None where a batch has none.
        problem: "" if all of it was read.
    """

    offset: int
    timestamp: int | None
    key: bytes | None = None
    value: bytes | None = None
    headers: list[tuple[str, bytes | None]] = dataclasses.field(default_factory=list)
    problem: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """The facts of a batch that apply to all its records.

    Attributes:
        base: the first record's offset.
        end: the offset after the last record.
        count: of records.
        first_timestamp, last_timestamp: in milliseconds.
        append_time: all records have the last timestamp.
    """

    base: int
    end: int
    count: int
    first_timestamp: int
    last_timestamp: int
    append_time: bool


def read_records(frame: Frame, data: Bytes, behind: int, most: int = MAX_HEADERS) -> Iterator[RawRecord]:
    """The records after an offset. From the first record without a valid length, one record covers the rest, at the last offset.

    Args:
        frame: of their batch.
        data: the records, not compressed.
        behind: offset; only later records are returned.
        most: headers of a record that are read.
    """
    cursor = _Cursor(data)
    last = behind
    for _ in range(frame.count):
        try:
            body = _Cursor(cursor.sized(nullable=False) or b"")
        except CodecError as exc:
            if last < frame.end - 1:
                problem = f"the records at offsets {last + 1} to {frame.end - 1} cannot be separated: {exc}"
                yield RawRecord(frame.end - 1, frame.last_timestamp, problem=problem)
            return
        record = _read(body, frame, most)
        if record.offset > last:
            last = record.offset
            yield record


def crowded(data: Bytes, count: int, size: int, most: int = MAX_HEADERS) -> bool:
    """Whether a record of at least this size has more headers than `most`. Never raises: the decoder reports malformed records."""
    cursor = _Cursor(data)
    try:
        for _ in range(count):
            body = cursor.sized(nullable=False) or b""
            if len(body) >= size and _header_count(_Cursor(body)) > most:
                return True
    except CodecError:
        pass
    return False


def _header_count(body: _Cursor) -> int:
    body.at += 1
    body.varint()
    body.varint()
    body.sized()
    body.sized()
    return body.varint()


def _read(body: _Cursor, frame: Frame, most: int) -> RawRecord:
    record = RawRecord(frame.end - 1, frame.last_timestamp)
    try:
        body.at += 1  # attributes: unused
        delta = body.varint()
        if not frame.append_time:
            record.timestamp = frame.first_timestamp + delta
        offset = frame.base + body.varint()
        record.offset = min(max(offset, frame.base), frame.end - 1)
        record.key = body.copied()
        record.value = body.copied()
        count = body.varint()
        if not 0 <= count <= len(body.data):
            raise CodecError(f"{count} headers")
        for _ in range(min(count, most)):
            name = body.copied() or b""
            record.headers.append((name.decode("utf-8", "backslashreplace"), body.copied()))
        if count > most:
            record.problem = f"the record has {count} headers; at most {most} are read"
        if record.offset != offset:
            record.problem = f"the record claims offset {offset}, outside its batch of {frame.base} to {frame.end - 1}"
    except CodecError as exc:
        record.problem = f"the record is malformed: {exc}"
    return record


class _Cursor:
    """A position in bytes. Every method raises CodecError at the end of the bytes."""

    __slots__ = ("at", "data")

    def __init__(self, data: Bytes) -> None:
        self.data = memoryview(data)
        self.at = 0

    def varint(self) -> int:
        """A zigzag varint."""
        value = shift = 0
        data, at = self.data, self.at
        while shift < MAX_VARINT:
            if at >= len(data):
                raise CodecError("it ends within a number")
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                self.at = at
                return (value >> 1) ^ -(value & 1)
            shift += 7
        raise CodecError("a number has too many bytes")

    def sized(self, *, nullable: bool = True) -> memoryview | None:
        """Bytes after their length; None if the length is negative."""
        size = self.varint()
        if size < 0 and nullable:
            return None
        if not 0 <= size <= len(self.data) - self.at:
            raise CodecError(f"{size} bytes should follow, but only {len(self.data) - self.at} do")
        self.at += size
        return self.data[self.at - size : self.at]

    def copied(self) -> bytes | None:
        """The same, as a copy."""
        found = self.sized()
        return None if found is None else bytes(found)
