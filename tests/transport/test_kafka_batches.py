"""Batches as a broker sends them, whatever they hold: no broker."""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from typing import Any

import cramjam
import pytest
from aiokafka import TopicPartition
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import CodecError, FleetError, TooLarge
from protocol.ports import Record
from protocol.transport.kafka.batches import MAX_INFLATED, Batches, InflateBudget
from protocol.transport.kafka.decoding import SafeRecords
from protocol.transport.kafka.inflating import inflate
from protocol.transport.kafka.record import Frame, read_records
from tests.transport.strangers import CODECS, Strange, built

PLACE = TopicPartition("t", 3)
LIMIT = 5000
CRC_AT, HEADER_SIZE = 17, 61

names = st.binary(max_size=8)
stranges = st.builds(
    Strange,
    st.none() | st.binary(max_size=40),
    st.lists(st.tuples(names, st.none() | st.binary(max_size=8)), max_size=4),
    st.none() | st.binary(max_size=8),
    st.integers(0, 2**62),
)
codecs = st.sampled_from([None, *CODECS])


def batch(records: Sequence[Strange], base: int, codec: str | None = None) -> bytes:
    return base.to_bytes(8, "big") + bytes(built(records, codec).build())[8:]


def resealed(data: bytes) -> bytes:
    """With a valid checksum of its content, as if written on purpose."""
    checksum = int(calc_crc32c(data[CRC_AT + 4 :]))
    return data[:CRC_AT] + checksum.to_bytes(4, "big") + data[CRC_AT + 4 :]


def drained(
    data: bytes, room: InflateBudget | None = None, start: int = 0, aborted: Any = None
) -> tuple[list[Record], int]:
    """What a reader gets, and where it continues."""
    batches = Batches(data, room or InflateBudget())
    if not batches.has_next():
        return [], start
    decoded = SafeRecords(PLACE, batches, aborted, start, None, None, True, 1)
    return list(decoded), decoded.next_fetch_offset


def expected(record: Strange) -> tuple[bytes, bytes | None, list[tuple[str, bytes | None]], float]:
    headers = [(name.decode("utf-8", "backslashreplace"), value) for name, value in record.headers]
    return record.value or b"", record.key, headers, (record.timestamp or 0) / 1000


def seen(record: Record) -> tuple[bytes, bytes | None, list[tuple[str, bytes | None]], float]:
    return bytes(record.value), record.key, list(record.headers), record.timestamp


def unpacked(codec: int, data: bytes, limit: int) -> bytes:
    """Inflated after a head that must remain."""
    whole = bytes(inflate(codec, memoryview(data), limit, b"head"))
    assert whole.startswith(b"head")
    return whole[4:]


class TestInflating:
    @pytest.mark.parametrize("codec", CODECS)
    @given(size=st.integers(LIMIT - 3, LIMIT + 3), seed=st.binary(min_size=1, max_size=100))
    def test_up_to_the_limit_and_not_beyond(self, codec: str, size: int, seed: bytes) -> None:
        data = (seed * (size // len(seed) + 1))[:size]
        compressed = bytes(built([Strange(data)], codec).build())[HEADER_SIZE:]
        inflated = unpacked(CODECS[codec], compressed, 2 * LIMIT)
        assert data in inflated
        assert unpacked(CODECS[codec], compressed, len(inflated)) == inflated
        with pytest.raises(TooLarge):
            unpacked(CODECS[codec], compressed, len(inflated) - 1)

    @given(st.binary(max_size=3000))
    def test_snappy_without_frames_is_read_as_librdkafka_writes_it(self, data: bytes) -> None:
        assert unpacked(2, bytes(cramjam.snappy.compress_raw(data)), LIMIT) == data

    @given(st.lists(st.binary(max_size=1000), min_size=1, max_size=3))
    def test_gzip_of_several_members_is_read(self, parts: list[bytes]) -> None:
        assert unpacked(1, b"".join(map(gzip.compress, parts)), LIMIT) == b"".join(parts)

    def test_a_gzip_trailer_that_lies_does_not_help(self) -> None:
        data = gzip.compress(bytes(2 * LIMIT))
        with pytest.raises(TooLarge):
            unpacked(1, data[:-4] + bytes(4), LIMIT)

    @given(st.integers(0, 7), st.binary(max_size=200), st.integers(0, 40))
    def test_garbage_is_said_to_be_broken(self, codec: int, garbage: bytes, kept: int) -> None:
        compressors: dict[int, Any] = {1: gzip.compress, 3: cramjam.lz4.compress, 4: cramjam.zstd.compress}
        whole = compressors.get(codec, bytes)(b"data" * 20)
        try:
            unpacked(codec, bytes(whole)[:kept] + garbage, LIMIT)
        except FleetError as exc:
            assert isinstance(exc, CodecError | TooLarge)  # noqa: PT017

    @pytest.mark.parametrize("codec", CODECS)
    def test_what_is_cut_off_is_said_to_be_broken(self, codec: str) -> None:
        compressed = bytes(built([Strange(os.urandom(500))], codec).build())[HEADER_SIZE:]
        with pytest.raises(CodecError if codec != "gzip" else FleetError):  # the last bytes may look like a trailer
            unpacked(CODECS[codec], compressed[:-20], LIMIT)


class TestReading:
    @given(st.lists(st.tuples(st.lists(stranges, min_size=1, max_size=5), codecs), min_size=1, max_size=4))
    def test_every_record_of_every_batch_comes_out_as_it_was_written(
        self, groups: list[tuple[list[Strange], str | None]]
    ) -> None:
        data, offset = b"", 100
        for records, codec in groups:
            data += batch(records, offset, codec)
            offset += len(records)
        got, position = drained(data, start=100)
        assert [seen(record) for record in got] == [expected(record) for records, _ in groups for record in records]
        assert [record.offset for record in got] == list(range(100, offset))
        assert not any(record.problem for record in got)
        assert position == offset

    @given(st.lists(stranges, min_size=1, max_size=6), codecs, st.data())
    def test_damage_costs_no_offset_and_no_other_batch(
        self, records: list[Strange], codec: str | None, data: st.DataObject
    ) -> None:
        whole = bytearray(batch(records, 10, codec))
        for at in data.draw(st.lists(st.integers(HEADER_SIZE, len(whole) - 1), max_size=5)):
            whole[at] = data.draw(st.integers(0, 255))
        end = 10 + len(records)
        got, position = drained(
            resealed(bytes(whole)) + batch([Strange(b"next")], end), InflateBudget(2 * MAX_INFLATED), 10
        )
        offsets = [record.offset for record in got]
        assert offsets == sorted(set(offsets))
        assert offsets[0] >= 10
        assert offsets[-2:] == [end - 1, end] or got[-2].offset < end - 1 < got[-1].offset
        assert (got[-1].value, position) == (b"next", end + 1)

    @pytest.mark.parametrize("claimed", [2, 60], ids=["the next batch's", "far behind"])
    def test_an_offset_outside_its_batch_is_not_believed(self, claimed: int) -> None:
        whole = bytearray(batch([Strange(b"a")], 10))
        whole[HEADER_SIZE + 3] = claimed  # after length, attributes and timestamp; zigzag
        got, position = drained(resealed(bytes(whole)) + batch([Strange(b"next")], 11), start=10)
        assert [(record.offset, record.value) for record in got] == [(10, b"a"), (11, b"next")]
        assert f"claims offset {10 + claimed // 2}" in got[0].problem
        assert (got[1].problem, position) == ("", 12)

    @given(stranges, st.binary(max_size=200))
    def test_the_careful_reader_takes_anything(self, record: Strange, garbage: bytes) -> None:
        frame = Frame(0, 3, 3, 0, 0, append_time=False)
        whole = bytes(built([record], None).build())[HEADER_SIZE:]
        offsets = [found.offset for found in read_records(frame, whole + garbage, -1)]
        assert offsets[0] == 0
        assert offsets == sorted(set(offsets))
        assert offsets[-1] <= 2

    def test_a_checksum_that_is_wrong_twice_is_broken_and_once_is_not(self) -> None:
        good = batch([Strange(b"a"), Strange(b"b")], 7)
        bad = good[:-1] + bytes([good[-1] ^ 1])
        room, behind = InflateBudget(), batch([Strange(b"c")], 9)
        assert drained(bad + behind, room, 7) == ([], 7)
        got, _ = drained(good + behind, room, 7)
        assert [record.value for record in got] == [b"a", b"b", b"c"]
        got, position = drained(bad + behind, room, 7)
        assert [(record.offset, record.value) for record in got] == [(8, b""), (9, b"c")]
        assert "offsets 7 to 8" in got[0].problem
        assert "checksum" in got[0].problem
        assert position == 10

    def test_a_broken_batch_is_told_from_its_middle_too(self) -> None:
        data = batch([Strange(bytes(100))] * 3, 7, "zstd")
        got, position = drained(resealed(data[:-5] + b"?????"), start=8)
        assert [(record.offset, bool(record.problem)) for record in got] == [(9, True)]
        assert position == 10

    def test_an_unknown_codec_is_one_broken_record(self) -> None:
        data = bytearray(batch([Strange(b"a"), Strange(b"b")], 0))
        data[22] |= 6
        got, position = drained(resealed(bytes(data)))
        assert [record.offset for record in got] == [1]
        assert "codec 6" in got[0].problem
        assert position == 2

    def test_without_room_nothing_more_is_inflated_and_the_rest_comes_again(self) -> None:
        parts = [batch([Strange(bytes(600))], offset, "gzip") for offset in range(5)]
        room = InflateBudget(1000)
        got, position = drained(b"".join(parts), room)
        assert [record.offset for record in got] == [0, 1]
        assert position == 2
        assert drained(b"".join(parts), room) == ([], 0)
        room.left = MAX_INFLATED
        assert len(drained(b"".join(parts[2:]), room, position)[0]) == 3

    def test_a_batch_that_is_over_the_limit_takes_all_room(self) -> None:
        data = batch([Strange(bytes(MAX_INFLATED))], 0, "zstd") + batch([Strange(b"next")], 1)
        room = InflateBudget(MAX_INFLATED)
        got, position = drained(data, room)
        assert ["32 MiB" in record.problem for record in got] == [True]
        assert (position, room.left) == (1, 0)

    def test_an_aborted_batch_is_not_inflated(self) -> None:
        data = bytearray(batch([Strange(bytes(MAX_INFLATED))], 0, "zstd"))
        data[22] |= 0x10
        data[43:51] = (5).to_bytes(8, "big")
        room = InflateBudget(9)
        assert drained(resealed(bytes(data)), room, aborted=[(5, 0)]) == ([], 1)
        assert room.left == 9

    def test_the_format_before_kafka_0_11_is_read_where_it_is_not_compressed(self) -> None:
        def old(offset: int, magic: int, codec: int) -> bytes:
            builder = LegacyRecordBatchBuilder(magic, codec, 1000)
            builder.append(offset, timestamp=1000, key=b"k", value=b"v")
            return offset.to_bytes(8, "big") + bytes(builder.build())[8:]

        got, position = drained(old(0, 0, 0) + old(1, 1, 0) + old(2, 1, 1) + batch([Strange(b"new")], 3))
        assert [(record.offset, record.value, record.timestamp) for record in got[:2]] == [(0, b"v", 0), (1, b"v", 1)]
        assert "before Kafka 0.11" in got[2].problem
        assert (got[3].value, position) == (b"new", 4)

    def test_what_nobody_foresaw_costs_one_batch(self) -> None:
        data = b"".join(batch([Strange(b"%d" % offset)] * 2, offset) for offset in (0, 2, 4))
        decoded = SafeRecords(PLACE, _with_a_marker_that_is_none(data), None, 0, None, None, True, 1)
        got = list(decoded)
        assert [(record.offset, record.value, bool(record.problem)) for record in got] == [
            (0, b"0", False),
            (1, b"0", False),
            (3, b"", True),
            (4, b"4", False),
            (5, b"4", False),
        ]
        assert decoded.next_fetch_offset == 6


class _Odd(Batches):
    __slots__ = ()

    def next_batch(self) -> Any:
        found = super().next_batch()
        found.is_control_batch = found.base_offset == 2  # aiokafka's own code finds no marker in it, and raises
        return found


def _with_a_marker_that_is_none(data: bytes) -> Batches:
    batches = _Odd(data, InflateBudget())
    assert batches.has_next()
    return batches
