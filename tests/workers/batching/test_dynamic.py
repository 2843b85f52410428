"""The dynamic batcher's rules beyond Triton's: knowledge of the log, deadlines, staging, draining."""

from __future__ import annotations

import pytest

from protocol.errors import Code
from tests.workers.batching.turns import DELAY, at, batcher, item, play, queue
from workers.batching.types import Reject, Release

# --- queueing ---------------------------------------------------------------------------------------------------------


def test_without_preserve_ordering_answers_leave_as_they_come() -> None:
    scheduler = batcher(1)
    for name in "ab":
        scheduler.add(item(name), 0)
    first, second = scheduler.take(0), scheduler.take(0)
    assert first is not None
    assert second is not None
    assert scheduler.completed(second, 1) == [second]
    assert scheduler.completed(first, 1) == [first]


def test_a_full_queue_of_expired_requests_takes_new_ones() -> None:
    scheduler = queue(default_timeout=0.1, max_queue_size=1)
    scheduler.add(item("a"), 0)
    assert scheduler.add(item("b", enqueued=0.2), 0.2) is None
    assert [queued.ref for queued in scheduler.expire(0.2)] == ["a"]


def test_cancelling_what_closed_a_batch_opens_it_again() -> None:
    scheduler = batcher()
    for queued in (item("a"), item("b", 1, "other"), item("c")):
        scheduler.add(queued, 0)
    scheduler.cancel("b")
    assert scheduler.take(0) is None
    batch = scheduler.take(DELAY)
    assert batch is not None
    assert batch.rows == 2


# --- knowledge of the log ---------------------------------------------------------------------------------------------


def test_known_rows_in_the_log_that_would_fill_the_batch_end_the_wait() -> None:
    scheduler = batcher()
    scheduler.add(item("a", 3), 0)
    assert scheduler.take(1, backlog_rows=4) is None
    batch = scheduler.take(1, backlog_rows=5)
    assert batch is not None
    assert batch.reason == Release.BACKLOG


def test_the_delay_starts_at_intake_while_the_log_holds_more() -> None:
    scheduler = batcher()
    scheduler.add(item("a", enqueued=100, published=1), 100)
    assert scheduler.take(100, backlog_rows=1) is None
    assert scheduler.wake_at(backlog_rows=1) == 110
    batch = scheduler.take(110, backlog_rows=1)
    assert batch is not None
    assert batch.reason == Release.DELAY


def test_an_old_record_does_not_wait_again_when_the_log_holds_no_more() -> None:
    scheduler = batcher()
    scheduler.add(item("a", enqueued=5, published=1), 5)
    assert scheduler.take(5) is None
    assert scheduler.wake_at() == 11
    batch = scheduler.take(11)
    assert batch is not None
    assert batch.reason == Release.AGE


def test_the_oldest_publication_counts_wherever_it_stands() -> None:
    """Partitions are drained in turn, so the head of the queue need not be the oldest."""
    scheduler = batcher()
    scheduler.add(item("a", enqueued=5, published=4), 5)
    scheduler.add(item("b", enqueued=5, published=2), 5)
    scheduler.add(item("c", enqueued=5, published=3), 5)
    assert scheduler.wake_at() == 12


def test_a_publication_from_the_future_changes_nothing() -> None:
    assert play(batcher(), [at(0, "a", published=99)]).batches == [(DELAY, "a", 1, "delay")]


# --- deadlines --------------------------------------------------------------------------------------------------------


def test_a_deadline_within_the_delay_ends_the_wait() -> None:
    played = play(batcher(), [at(0, "a"), at(1, "b", deadline=9)])
    assert played.batches == [(1, "a b", 2, "deadline")]


def test_a_deadline_beyond_the_delay_changes_nothing() -> None:
    assert play(batcher(), [at(0, "a", deadline=11)]).batches == [(DELAY, "a", 1, "delay")]


def test_what_is_past_its_deadline_is_never_in_a_batch() -> None:
    played = play(batcher(), [at(0, "a", deadline=2), at(0, "b"), at(0, "c", deadline=1)], busy_until=5)
    assert played.expired == [(1, "c"), (2, "a")]
    assert played.batches == [(DELAY, "b", 1, "delay")]


def test_take_alone_leaves_the_late_to_expire() -> None:
    scheduler = batcher(2)
    for queued in (item("a", deadline=1), item("b", 2)):
        scheduler.add(queued, 0)
    batch = scheduler.take(1)
    assert batch is not None
    assert [queued.ref for queued in batch.items] == ["b"]
    assert scheduler.wake_at() is not None
    (late,) = scheduler.expire(1)
    assert late.late(1)


# --- staging ----------------------------------------------------------------------------------------------------------


def test_a_partial_batch_is_not_staged_however_long_it_has_waited() -> None:
    scheduler = batcher(2, 6)
    scheduler.add(item("a", 4), 0)
    assert scheduler.take(0, idle=False) is None
    assert scheduler.take(99, idle=False) is None
    assert scheduler.wake_at(idle=False) is None


def test_a_preferred_size_that_can_still_grow_is_not_staged() -> None:
    scheduler = batcher(2, 6)
    scheduler.add(item("a", 2), 0)
    assert scheduler.take(0, idle=False) is None
    assert scheduler.take(0) is not None


@pytest.mark.parametrize("second", [item("b", 6), item("b", 1, "other")])
def test_a_batch_that_the_next_request_closes_is_staged(second: object) -> None:
    scheduler = batcher()
    scheduler.add(item("a", 3), 0)
    scheduler.add(second, 0)  # type: ignore[arg-type]
    batch = scheduler.take(0, idle=False)
    assert batch is not None
    assert (batch.rows, batch.reason) == (3, Release.CLOSED)


@pytest.mark.parametrize(
    "policy",
    [{"default_timeout": 5.0}, {"allow_timeout_override": True}, {"max_queue_size": 100}, {"levels": 2, "default": 1}],
)
def test_nothing_is_staged_under_a_queue_policy(policy: dict[str, float]) -> None:
    """Triton's rule: what may still time out, be overtaken or count against a bound stays in the queue."""
    scheduler = queue(**policy)  # type: ignore[arg-type]
    scheduler.add(item("a", 8), 0)
    assert scheduler.take(0, idle=False) is None
    assert scheduler.take(0) is not None


# --- draining ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("idle", [True, False])
def test_draining_releases_what_is_there_and_takes_no_more(idle: bool) -> None:
    scheduler = batcher()
    scheduler.add(item("a", 3), 0)
    scheduler.drain()
    rejection = scheduler.add(item("b"), 0)
    assert rejection is not None
    assert (rejection.reason, rejection.code) == (Reject.DRAINING, Code.UNAVAILABLE)
    batch = scheduler.take(0, idle=idle)
    assert batch is not None
    assert (batch.rows, batch.reason) == (3, Release.DRAIN)


def test_draining_still_keeps_shapes_and_sizes_apart() -> None:
    scheduler = batcher(4)
    for queued in (item("a", 5), item("b", 1), item("c", 1, "other")):
        scheduler.add(queued, 0)
    scheduler.drain()
    assert play(scheduler, []).batches == [(0, "a", 5, "closed"), (0, "b", 1, "closed"), (0, "c", 1, "drain")]
