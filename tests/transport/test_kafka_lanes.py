"""In which order fetched records are handed out: no broker."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.ports import Assigned, Record
from protocol.transport.kafka.buffers import Lanes


def fetched(partition: int, *offsets: int) -> list[Record]:
    return [Record("t", partition, offset, float(offset), b"%d" % offset, ()) for offset in offsets]


class TestLanes:
    def lanes(self, *partitions: int) -> Lanes:
        lanes = Lanes()
        lanes.open([Assigned(partition, 0, 100) for partition in partitions])
        return lanes

    @given(
        st.lists(st.tuples(st.integers(0, 3), st.integers(1, 8)), max_size=12),
        st.lists(st.tuples(st.integers(1, 9), st.none() | st.sets(st.integers(0, 3))), max_size=30),
    )
    def test_all_comes_out_once_in_order_within_bounds(
        self, added: list[tuple[int, int]], takes: list[tuple[int, set[int] | None]]
    ) -> None:
        lanes = self.lanes(0, 1, 2, 3)
        ends = [0, 0, 0, 0]
        for partition, count in added:
            lanes.add(partition, fetched(partition, *range(ends[partition], ends[partition] + count)))
            ends[partition] += count
        out: list[list[int]] = [[], [], [], []]
        for most, wanted in [*takes, (10_000, None)]:
            taken = lanes.take(most, wanted)
            assert len(taken) <= most
            waiting = sum(end - len(got) for end, got in zip(ends, out, strict=True))
            for record in taken:
                assert wanted is None or record.partition in wanted
                out[record.partition].append(record.offset)
            assert taken or wanted is not None or waiting == 0
        assert out == [list(range(end)) for end in ends]
        assert lanes.bytes == 0
        assert [lane.position for _, lane in lanes] == ends

    def test_a_long_partition_does_not_hold_up_the_others(self) -> None:
        lanes = self.lanes(0, 1)
        lanes.add(0, fetched(0, *range(1000)))
        lanes.add(1, fetched(1, *range(8)))
        for _ in range(2):
            taken = lanes.take(8)
            assert [record.partition for record in taken].count(1) == 4

    def test_the_partitions_take_turns_at_being_first(self) -> None:
        lanes = self.lanes(0, 1, 2)
        for partition in range(3):
            lanes.add(partition, fetched(partition, *range(30)))
        assert sorted(lanes.take(1)[0].partition for _ in range(3)) == [0, 1, 2]

    def test_closing_forgets(self) -> None:
        lanes = self.lanes(4, 5)
        lanes.add(4, fetched(4, 0, 1))
        assert lanes.close() == [4, 5]
        assert (lanes.bytes, lanes.take(9), 4 in lanes) == (0, [], False)

    def test_a_lane_begins_where_the_log_does(self) -> None:
        lanes = Lanes()
        lanes.open([Assigned(0, committed=3, end=9, start=7)])
        ((_, lane),) = lanes
        assert (lane.position, lane.committed, lane.end) == (7, 3, 9)
