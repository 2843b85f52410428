"""Which rows travel together: groups cut into records, and records into their rows. Pure.

The cuts depend on the rows alone: the same rows always make the same records, with the same ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from penstock.batch.columns import Group
from penstock.batch.records import Bad, Record, bad, record_id
from protocol.errors import Code
from protocol.frames import MAX_RECORD
from protocol.tensors import Buffer, Tensor

MAX_BYTES: Final = 4 * 1024 * 1024
"""Bytes of a record's tensors above which its rows are divided; one row may have more."""
MOST_BYTES: Final = MAX_RECORD - 64 * 1024
"""Bytes of one row's tensors above which it cannot be sent."""
MAX_ROWS: Final = 65_536
"""Rows of one record, as the worker takes them."""


def records_of(run: str, groups: Sequence[Group], most: int) -> tuple[list[Record], list[tuple[int, Bad]]]:
    """The records of a block's groups, by their first lines, and the lines whose row is too large for a record.

    Args:
        run: see `records`.
        groups: rows of one shape each.
        most: rows of a record.
    """
    records: list[Record] = []
    wrong: list[tuple[int, Bad]] = []
    for group in groups:
        for start, stop in _cuts(group, most):
            lines = group.lines[start:stop]
            whole = stop - start == len(group.lines)
            tensors = group.tensors if whole else tuple(_sliced(tensor, start, stop) for tensor in group.tensors)
            record = Record(record_id(run, lines[0], lines[-1]), lines, tensors)
            if record.size > MOST_BYTES:
                text = f"the row has {record.size} bytes of tensors, and a record may have {MOST_BYTES}"
                wrong.append((lines[0], bad(text, Code.TOO_LARGE)))
            else:
                records.append(record)
    records.sort(key=_first_line)
    return records, wrong


def _first_line(record: Record) -> int:
    return record.lines[0]


def _cuts(group: Group, most: int) -> Iterator[tuple[int, int]]:
    count = len(group.lines)
    if count == 1 or (count <= most and sum([len(tensor.data) for tensor in group.tensors]) <= MAX_BYTES):
        yield 0, count
        return
    ends = np.sum([row_ends(tensor, count) for tensor in group.tensors], axis=0)
    start = 0
    while start < count:
        before = int(ends[start - 1]) if start else 0
        fitting = int(np.searchsorted(ends, before + MAX_BYTES, "right"))
        stop = min(count, start + most, max(fitting, start + 1))
        yield start, stop
        start = stop


def row_ends(tensor: Tensor, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Where each row's bytes end."""
    size = len(tensor.data)
    if tensor.datatype != "BYTES":
        return np.arange(1, count + 1, dtype=np.int64) * (size // count)
    elements = 1
    for each in tensor.shape[1:]:
        elements *= each
    data, at, ends = memoryview(tensor.data), 0, []
    for _ in range(count):
        for _ in range(elements):
            at += 4 + int.from_bytes(data[at : at + 4], "little")
        ends.append(at)
    return np.array(ends, dtype=np.int64)


def _sliced(tensor: Tensor, start: int, stop: int) -> Tensor:
    count = tensor.shape[0]
    ends = row_ends(tensor, count)
    low = int(ends[start - 1]) if start else 0
    data: Buffer = memoryview(tensor.data)[low : int(ends[stop - 1])]
    return Tensor(tensor.name, tensor.datatype, (stop - start, *tensor.shape[1:]), data)


def rows_of(run: str, record: Record) -> list[Record]:
    """Each row of a record of several rows as a record of its own."""
    count = len(record.lines)
    ends = [row_ends(tensor, count) for tensor in record.tensors]
    alone = []
    for number, line in enumerate(record.lines):
        tensors = []
        for tensor, end in zip(record.tensors, ends, strict=True):
            low = int(end[number - 1]) if number else 0
            data = memoryview(tensor.data)[low : int(end[number])]
            tensors.append(Tensor(tensor.name, tensor.datatype, (1, *tensor.shape[1:]), data))
        alone.append(Record(record_id(run, line, line), [line], tuple(tensors), alone=True))
    return alone
