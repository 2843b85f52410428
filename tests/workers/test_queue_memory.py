"""One budget of bytes for the queues of a process."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.serving.memory import BATCH_LANE, QueueMemory


def test_one_queue_may_use_all_of_it() -> None:
    share = QueueMemory(100).open_queue()
    share.add(99)
    assert share.free == 1
    share.add(1)
    assert share.free == 0


def test_a_queue_beside_a_full_one_has_its_share() -> None:
    memory = QueueMemory(100)
    full, other = memory.open_queue(), memory.open_queue()
    full.add(75)
    assert (full.free, other.free, memory.share) == (0, 25, 25)
    other.add(25)
    assert (other.free, memory.used) == (0, 100)


def test_what_is_held_within_shares_takes_nothing_common() -> None:
    memory = QueueMemory(100)
    shares = [memory.open_queue() for _ in range(5)]
    for share in shares[1:]:
        share.add(10)
    assert shares[0].free == 60


def test_batch_lanes_leave_common_bytes_to_interactive_requests() -> None:
    memory = QueueMemory(100)
    lane, interactive = memory.open_queue(BATCH_LANE), memory.open_queue()
    lane.add(50)
    assert (lane.free, interactive.free) == (0, 50)


def test_what_a_closed_queue_held_is_free_once() -> None:
    memory = QueueMemory(100)
    gone, other = memory.open_queue(), memory.open_queue()
    gone.add(80)
    gone.close()
    gone.close()
    gone.add(-80)
    assert (memory.used, other.free) == (0, 100)


def test_shares_follow_the_number_of_queues() -> None:
    memory = QueueMemory(100)
    first = memory.open_queue()
    first.add(100)
    others = [memory.open_queue() for _ in range(9)]
    assert [share.free for share in others] == [5] * 9
    for share in others:
        share.close()
    first.add(-40)
    assert (first.free, memory.used) == (40, 60)


@given(
    st.integers(1, 10**6),
    st.integers(1, 8),
    st.integers(0, 8),
    st.lists(st.tuples(st.integers(0, 7), st.integers(1, 10**5), st.booleans())),
)
def test_the_sum_is_bounded_and_nobody_starves(
    limit: int, queues: int, lanes: int, steps: list[tuple[int, int, bool]]
) -> None:
    """Each queue takes in one request when it has room, as large as it may be."""
    memory = QueueMemory(limit)
    shares = [memory.open_queue(BATCH_LANE if number < lanes else 1.0) for number in range(queues)]
    largest = 0
    for number, size, comes in steps:
        share = shares[number % queues]
        if not comes:
            share.add(-share.held)
        elif share.free > 0:
            share.add(size)
            largest = max(largest, size)
        assert memory.used == sum(share.held for share in shares)
        assert memory.used <= limit + queues * largest
        assert all(share.free > 0 for share in shares if share.held < max(1, memory.share))
    for share in shares:
        share.add(-share.held)
    assert memory.used == 0
    assert max(share.free for share in shares) >= limit // 4
