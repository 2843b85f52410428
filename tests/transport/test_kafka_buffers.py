"""In which order fetched records are handed out: no broker."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.ports import Assigned, Record
from protocol.transport.kafka.buffers import PartitionBuffers


def fetched(partition: int, *offsets: int) -> list[Record]:
    return [Record("t", partition, offset, float(offset), b"%d" % offset, ()) for offset in offsets]


class TestLanes:
    def buffers(self, *partitions: int) -> PartitionBuffers:
        buffers = PartitionBuffers()
        buffers.open([Assigned(partition, 0, 100) for partition in partitions])
        return buffers

    @given(
        st.lists(st.tuples(st.integers(0, 3), st.integers(1, 8)), max_size=12),
        st.lists(st.tuples(st.integers(1, 9), st.none() | st.sets(st.integers(0, 3))), max_size=30),
    )
    def test_all_comes_out_once_in_order_within_bounds(
        self, added: list[tuple[int, int]], takes: list[tuple[int, set[int] | None]]
    ) -> None:
        buffers = self.buffers(0, 1, 2, 3)
        ends = [0, 0, 0, 0]
        for partition, count in added:
            buffers.add(partition, fetched(partition, *range(ends[partition], ends[partition] + count)))
            ends[partition] += count
        out: list[list[int]] = [[], [], [], []]
        for most, wanted in [*takes, (10_000, None)]:
            taken = buffers.take(most, wanted)
            assert len(taken) <= most
            waiting = sum(end - len(got) for end, got in zip(ends, out, strict=True))
            for record in taken:
                assert wanted is None or record.partition in wanted
                out[record.partition].append(record.offset)
            assert taken or wanted is not None or waiting == 0
        assert out == [list(range(end)) for end in ends]
        assert buffers.bytes == 0
        assert [buffer.position for _, buffer in buffers] == ends

    def test_a_long_partition_does_not_hold_up_the_others(self) -> None:
        buffers = self.buffers(0, 1)
        buffers.add(0, fetched(0, *range(1000)))
        buffers.add(1, fetched(1, *range(8)))
        for _ in range(2):
            taken = buffers.take(8)
            assert [record.partition for record in taken].count(1) == 4

    def test_the_partitions_take_turns_at_being_first(self) -> None:
        buffers = self.buffers(0, 1, 2)
        for partition in range(3):
            buffers.add(partition, fetched(partition, *range(30)))
        assert sorted(buffers.take(1)[0].partition for _ in range(3)) == [0, 1, 2]

    def test_closing_forgets(self) -> None:
        buffers = self.buffers(4, 5)
        buffers.add(4, fetched(4, 0, 1))
        assert buffers.close() == [4, 5]
        assert (buffers.bytes, buffers.take(9), 4 in buffers) == (0, [], False)

    def test_a_lane_begins_where_the_log_does(self) -> None:
        buffers = PartitionBuffers()
        buffers.open([Assigned(0, committed=3, end=9, start=7)])
        ((_, buffer),) = buffers
        assert (buffer.position, buffer.committed, buffer.end) == (7, 3, 9)
