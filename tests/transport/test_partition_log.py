from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ports import OutRecord, Record
from protocol.transport.embedded.partition_log import PartitionLog

SIZES = st.lists(st.integers(0, 9), max_size=30)


def filled(sizes: list[int], keys: int = 0) -> PartitionLog:
    log = PartitionLog(compacted=bool(keys))
    records = [OutRecord(bytes(size), key=b"%d" % (n % keys) if keys else None) for n, size in enumerate(sizes)]
    assert log.append("t", 0, records, 5.0) == 0
    return log


def offsets(records: list[Record]) -> list[int]:
    return [record.offset for record in records]


@given(SIZES, st.integers(-2, 35), st.integers(0, 35), st.integers(0, 35))
def test_it_is_a_list_with_a_moving_start(sizes: list[int], before: int, offset: int, count: int) -> None:
    log = filled(sizes)
    log.drop(before)
    kept = list(range(min(max(before, 0), len(sizes)), len(sizes)))
    assert (log.start, log.end) == (len(sizes) - len(kept), len(sizes))
    assert log.size == sum(sizes[n] for n in kept)
    assert offsets(log.slice(offset, count)) == [n for n in kept if n >= offset][:count]
    assert log.behind(offset) == len([n for n in kept if n >= offset])
    assert (log.record_at(offset) is not None) == (offset in kept)
    assert log.append("t", 0, [OutRecord(b"x")], 1.0) == len(sizes)


@given(SIZES, st.integers(0, 60))
def test_what_is_over_a_size_goes_from_the_front(sizes: list[int], size: int) -> None:
    log = filled(sizes)
    below = log.excess(size)
    assert sum(sizes[below:]) <= size
    assert below == 0 or sum(sizes[below - 1 :]) > size


@given(st.integers(0, 400), st.integers(1, 5), st.integers(0, 400))
def test_compaction_keeps_the_last_of_every_key(count: int, keys: int, offset: int) -> None:
    log = filled([n % 7 for n in range(count)], keys)
    log.drop(count)
    dropped = log.compact()
    kept = log.slice(0, count)
    assert sorted(dropped + offsets(kept)) == list(range(count))
    assert {record.key: record.offset for record in kept} == {b"%d" % (n % keys): n for n in range(count)}
    assert len(kept) < 2 * keys + 64
    assert log.size == sum(len(record.value) for record in kept)
    assert log.end == count
    assert offsets(log.slice(offset, 3)) == [n for n in offsets(kept) if n >= offset][:3]
    assert log.behind(offset) == len([n for n in offsets(kept) if n >= offset])


@given(SIZES, st.integers(0, 30), st.booleans())
def test_a_log_can_be_restored(sizes: list[int], before: int, compacted: bool) -> None:
    log = filled(sizes, 2 if compacted else 0)
    log.drop(before)
    again = PartitionLog(compacted=compacted, start=log.start)
    for record in log.slice(0, 100):
        again.restore(record)
    assert (again.start, again.end, again.size) == (log.start, log.end, log.size)
    assert again.slice(0, 100) == log.slice(0, 100)


def test_a_gap_in_what_is_restored_is_found() -> None:
    log = PartitionLog(start=3)
    log.restore(Record("t", 0, 3, 1.0, b"", ()))
    with pytest.raises(ValueError, match="t/0 has a gap before offset 5"):
        log.restore(Record("t", 0, 5, 1.0, b"", ()))


def test_records_are_stamped_unless_they_are() -> None:
    log = PartitionLog()
    log.append("t", 3, [OutRecord(b"a", timestamp=2.5), OutRecord(b"b")], 7.0)
    assert [(record.timestamp, record.partition) for record in log.slice(0, 2)] == [(2.5, 3), (7.0, 3)]
