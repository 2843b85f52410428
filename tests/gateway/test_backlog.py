"""Which requests count as unanswered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.backlog import MAX_AGE, MAX_COUNT, NOTHING, Backlog, LogFacts, held, unowned
from protocol.messages import Lane, ModelLoad, ModelState

counts = st.integers(0, 10**6)
anything = st.one_of(st.integers(), st.floats(), st.text(max_size=3), st.none(), st.booleans())


def load(**fields: object) -> ModelLoad:
    return ModelLoad("m", "1", ModelState.READY, **fields)  # type: ignore[arg-type]


def test_what_was_answered_above_the_committed_offset_is_not_counted() -> None:
    """One slow request holds the committed offset back, and a thousand behind it are answered."""
    waiting = held(load(running_rows=1, lag=1001), Lane.INTERACTIVE, full=8, draining=False)
    assert (waiting.requests, waiting.rows) == (1, 1)


def test_a_worker_whose_queue_is_full_has_not_read_the_rest_of_its_log() -> None:
    waiting = held(
        load(queued_rows=64, queued_requests=32, running_rows=8, lag=500), Lane.INTERACTIVE, 8, draining=False
    )
    assert (waiting.requests, waiting.rows) == (500, 1000)


def test_a_worker_takes_in_three_batches_of_which_two_run_or_are_next() -> None:
    """Its queue is then one batch long, however many records wait in its log."""
    waiting = held(load(queued_rows=4, queued_requests=4, running_rows=8, lag=120), Lane.INTERACTIVE, 4, draining=False)
    assert (waiting.requests, waiting.rows) == (120, 120)
    keeps_up = load(queued_rows=0, running_rows=8, lag=20)
    assert held(keeps_up, Lane.INTERACTIVE, 4, draining=False).requests == 8, "answered ones are not committed at once"


def test_a_worker_that_shuts_down_leaves_what_it_has_not_read() -> None:
    assert held(load(lag=7), Lane.INTERACTIVE, 8, draining=False).requests == 0
    assert held(load(lag=7), Lane.INTERACTIVE, 8, draining=True).requests == 7


def test_a_worker_says_what_it_has_not_read_and_its_lag_counts_no_more() -> None:
    said = load(
        queued_rows=6, queued_requests=3, running_rows=12, lag=5000, oldest_age=2.0, unanswered=4, unread=10, batch_running_rows=8,
        batch_lag=900, batch_queued_rows=22, batch_unanswered=3, batch_unread=2, batch_oldest_age=90.0,
    )  # fmt: skip
    for draining in (False, True):
        assert held(said, Lane.INTERACTIVE, 8, draining) == Backlog(14, 35, 2.0)
        assert held(said, Lane.BATCH, 8, draining) == Backlog(5, 50, 90.0)


def test_what_nobody_has_read_has_no_known_age_and_what_is_being_stored_no_rows() -> None:
    unread = load(unanswered=0, unread=5, batch_unread=4)
    assert held(unread, Lane.INTERACTIVE, 8, draining=False, rows_per_request=2.0) == Backlog(5, 10, None)
    assert held(unread, Lane.BATCH, 8, draining=False) == Backlog(4, 4, None)
    storing = load(unanswered=3, oldest_age=0.25, lag=3)
    assert held(storing, Lane.INTERACTIVE, 8, draining=False) == Backlog(3, 0, 0.25)
    assert held(load(unanswered=0, lag=9, batch_lag=9), Lane.BATCH, 8, draining=True) == NOTHING


def test_running_rows_belong_to_the_lane_that_has_records() -> None:
    only_batch = load(running_rows=4, batch_lag=1)
    assert held(only_batch, Lane.INTERACTIVE, 8, draining=False) == NOTHING
    assert held(only_batch, Lane.BATCH, 8, draining=False) == Backlog(1, 4, None)
    both = load(running_rows=4, lag=1, batch_lag=2)
    assert held(both, Lane.INTERACTIVE, 8, draining=False).rows == 4
    assert held(both, Lane.BATCH, 8, draining=False, rows_per_request=100.0).rows == 200


def test_only_partitions_without_a_worker_count_in_the_log() -> None:
    facts = LogFacts({0: 3, 1: 4, 2: 0}, 2.0, {0: 90.0, 1: 70.0})
    assert unowned(facts, set(), 100.0) == Backlog(7, 14, 30.0)
    assert unowned(facts, {1}, 100.0) == Backlog(3, 6, 10.0)
    assert unowned(facts, {0, 1}, 100.0) == NOTHING


@given(st.dictionaries(st.integers(0, 9), counts, max_size=5), st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_more_owners_never_mean_more_backlog_in_the_log(unread: dict[int, int], few: set[int], more: set[int]) -> None:
    facts = LogFacts(unread)
    assert unowned(facts, few | more, 0.0).requests <= unowned(facts, few, 0.0).requests
    assert unowned(facts, set(), 0.0).requests == sum(unread.values())


FIELDS = (
    "queued_rows", "queued_requests", "running_rows", "lag", "oldest_age", "batch_lag", "batch_queued_rows", "unanswered", "unread",
    "batch_unanswered", "batch_unread", "batch_oldest_age", "batch_running_rows",
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(FIELDS), anything), st.sampled_from(Lane), st.booleans())
def test_no_heartbeat_makes_numbers_that_cannot_be(said: dict[str, object], lane: Lane, draining: bool) -> None:
    waiting = held(load(**said), lane, 8, draining)
    assert 0 <= waiting.rows <= MAX_COUNT
    assert 0 <= waiting.requests <= 3 * MAX_COUNT
    assert waiting.oldest_age is None or 0 <= waiting.oldest_age <= MAX_AGE
    assert bool(waiting.requests) >= bool(waiting.rows)


@given(counts, counts, counts, st.booleans())
def test_every_request_that_a_worker_holds_counts(queued: int, running: int, lag: int, draining: bool) -> None:
    waiting = held(
        load(queued_rows=queued, queued_requests=queued, running_rows=running, lag=lag), Lane.INTERACTIVE, 8, draining
    )
    assert waiting.requests >= queued
    assert waiting.rows >= queued
    assert bool(waiting.requests) >= bool(running and lag)


@given(st.lists(st.builds(Backlog, counts, counts, st.one_of(st.none(), st.floats(0, 1e6)))))
def test_backlogs_add_up(parts: list[Backlog]) -> None:
    total = sum(parts, NOTHING)
    assert total.requests == sum(part.requests for part in parts)
    ages = [part.oldest_age for part in parts if part.requests and part.oldest_age is not None]
    assert total.oldest_age == (max(ages) if ages else None if total.requests else 0.0)
