"""One budget of bytes for the queues of a process."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.serving.memory import QueueMemory


def test_one_queue_may_use_all_of_it() -> None:
    share = QueueMemory(100).open_queue()
    share.add(99)
    assert share.free == 1
    share.add(1)
    assert share.free <= 0


def test_a_queue_beside_a_full_one_has_its_least_share() -> None:
    memory = QueueMemory(100)
    full, other = memory.open_queue(), memory.open_queue()
    full.add(150)
    assert full.free <= 0
    assert other.free == 25
    other.add(25)
    assert other.free <= 0


def test_what_a_closed_queue_held_is_free_once() -> None:
    memory = QueueMemory(100)
    gone, other = memory.open_queue(), memory.open_queue()
    gone.add(80)
    gone.close()
    gone.close()
    gone.add(-80)
    assert (memory.used, other.free) == (0, 100)


@given(
    st.integers(1, 10**6),
    st.integers(1, 8),
    st.lists(st.tuples(st.integers(0, 7), st.integers(1, 10**5), st.booleans())),
)
def test_the_sum_is_bounded_and_nobody_starves(limit: int, queues: int, steps: list[tuple[int, int, bool]]) -> None:
    """Each queue takes in one request when it has room, as large as it may be."""
    memory = QueueMemory(limit)
    shares = [memory.open_queue() for _ in range(queues)]
    largest = 0
    for number, size, comes in steps:
        share = shares[number % queues]
        if not comes:
            share.add(-share.held)
        elif share.free > 0:
            share.add(size)
            largest = max(largest, size)
        assert memory.used == sum(share.held for share in shares)
        assert memory.used <= limit + limit // 2 + queues * largest
        assert all(share.free > 0 for share in shares if share.held == 0)
