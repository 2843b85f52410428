"""The rules of the batch lane, on instances whose time passes when a test says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.batching.lanes import BRIEF, LARGEST_SHARE, SMALLER, LanePlanner, LaneSettings
from workers.batching.run_times import FORGOTTEN, MAX_SHAPES, MAX_SIZES, NOISE, RETRY, TRIES, RunTimes

MAX_ROWS = 16


# --- run times --------------------------------------------------------------------------------------------------------


def test_a_size_between_two_measured_ones_lies_between_them() -> None:
    times = RunTimes(1.0)
    times.observe("a", 4, 0.1, 0.0)
    times.observe("a", 16, 0.2, 0.0)
    assert times.least("a", 8) == 0.1
    assert times.most("a", 8) == 0.2
    assert times.least("a", 2) == 0.0
    assert times.most("a", 17) is None
    assert times.most("b", 1) is None


def test_an_unmeasured_size_continues_the_slope_below_or_takes_as_long_as_the_next_larger_one() -> None:
    times = RunTimes(1.0)
    assert times.expected("a", 1, 0.0) is None
    times.observe("a", 4, 0.1, 0.0)
    assert times.expected("a", 8, 0.0) == 0.1, "nothing is known of a slope"
    assert times.expected("a", 9, 0.0) is None, "4 rows say nothing of more than twice as many"
    times.observe("a", 2, 0.06, 0.0)
    assert times.expected("a", 8, 0.0) == pytest.approx(0.18)
    times.observe("b", 2, 0.4, 0.0)
    times.observe("b", 4, 0.1, 0.0)
    assert times.expected("b", 8, 0.0) == 0.1, "a slope is never downwards"
    times.observe("a", 8, 0.09, 0.0)
    assert times.expected("a", 6, 0.0) == 0.09


def test_a_busy_machine_does_not_make_a_size_too_slow() -> None:
    times = RunTimes(0.02)
    for turn in range(100):
        times.observe("a", 8, 0.012 if turn % 4 == 0 else 0.03, turn / 100)
        assert times.expected("a", 8, turn / 100) == 0.012
    for turn in range(7):
        times.observe("a", 8, 0.03, 1.0)
        assert (times.expected("a", 8, 1.0) == 0.012) == (turn < 4), "the last good run is forgotten"


def test_a_run_far_above_the_limit_counts_at_once_and_is_tried_again_later_and_later() -> None:
    times = RunTimes(0.02)
    times.observe("a", 8, 0.01, 0.0)
    times.observe("a", 8, 0.5, 1.0)
    times.observe("a", 4, 0.005, 1.0)
    assert times.expected("a", 8, 1.0) == 0.5
    assert times.expected("a", 8, 1.0 + RETRY) == 0.005, "as 4 rows"
    times.observe("a", 8, 0.5, 20.0)
    assert times.expected("a", 8, 20.0 + RETRY) == 0.5
    assert times.expected("a", 8, 20.0 + 2 * RETRY) == 0.005
    times.observe("a", 8, 0.01, 50.0)
    assert times.expected("a", 8, 50.0) == 0.01, "what it took in between is forgotten"


def test_memory_is_bounded() -> None:
    times = RunTimes(1.0)
    for shape in range(2 * MAX_SHAPES):
        for rows in range(1, 2 * MAX_SIZES):
            times.observe(shape, rows, 0.1, 0.0)
    assert times.measured(0) == []
    assert len(times.measured(2 * MAX_SHAPES - 1)) == MAX_SIZES


# --- topping up --------------------------------------------------------------------------------------------------------


def planner(longest: float = 0.02, share: float = 0.05, max_rows: int = MAX_ROWS) -> LanePlanner:
    return LanePlanner(max_rows, (), LaneSettings(longest, share))


def test_rows_are_added_only_where_the_larger_size_was_measured_and_takes_no_longer() -> None:
    lane = planner()
    lane.observe("a", 4, 0.010, 0.0)
    assert lane.top_up("a", 4, 100) == 0, "8 rows were never measured"
    lane.observe("a", 16, 0.020, 0.0)
    assert lane.top_up("a", 4, 100) == 0
    lane.observe("a", 8, 0.0104, 0.0)
    assert lane.top_up("a", 4, 100) == 4
    assert lane.top_up("a", 5, 100) == 3, "at least as long as 4 rows"
    assert lane.top_up("a", 4, 3) == 3, "no longer than 8 rows"
    assert lane.top_up("a", 3, 100) == 0, "how long 3 rows take alone is not known"
    assert lane.top_up("b", 4, 100) == 0
    assert lane.top_up("a", 16, 100) == 0
    assert lane.top_up("a", 4, 0) == 0


sizes = st.dictionaries(st.integers(1, MAX_ROWS), st.floats(1e-6, 0.1), max_size=8)


@given(sizes, st.integers(1, MAX_ROWS), st.integers(0, 100))
def test_a_topped_up_batch_is_measured_to_be_as_fast(seconds: dict[int, float], rows: int, waiting: int) -> None:
    lane = planner(longest=1.0)
    for size, took in seconds.items():
        lane.observe("a", size, took, 0.0)
    extra = lane.top_up("a", rows, waiting)
    assert 0 <= extra <= min(waiting, MAX_ROWS - rows)
    if extra:
        larger = min(size for size in seconds if size >= rows + extra)
        alone = max(
            (seconds[size] for size in [max((s for s in seconds if s <= rows), default=0)] if size), default=0.0
        )
        assert any(seconds[size] <= alone + max(BRIEF, SMALLER * alone) for size in seconds if size >= larger)


def test_some_batches_are_left_alone_so_that_their_time_stays_measured() -> None:
    lane = planner()
    for size in (4, 8):
        lane.observe("a", size, 0.01, 0.0)
    extras = [lane.top_up("a", 4, 100) for _ in range(160)]
    assert extras.count(0) == 10


# --- batches of its own ------------------------------------------------------------------------------------------------


def grown(lane: LanePlanner, per_batch: float, per_row: float, runs: int = 30) -> list[int]:
    """The sizes that it chooses, one run after the other, of a model that takes so long."""
    chosen = []
    for _ in range(runs):
        rows = lane.batch_rows("a", 0.0, 0.0)
        lane.observe("a", rows, per_batch + per_row * rows, 0.0)
        chosen.append(rows)
    return chosen


def test_the_size_doubles_up_to_the_largest_that_fits() -> None:
    assert grown(planner(), 0.001, 0.0)[:6] == [1, 2, 4, 8, 16, 16]
    assert grown(planner(), 0.0, 0.003)[:5] == [1, 2, 4, 4, 4]
    assert grown(planner(), 0.015, 0.0)[:6] == [1, 2, 4, 8, 16, 16]
    assert grown(planner(), 0.0, 0.015)[:5] == [1, 2, 1, 1, 1], "one run tells"


def test_if_one_row_takes_too_long_as_many_run_as_take_no_longer() -> None:
    assert grown(planner(), 5.0, 0.0)[:6] == [1, 2, 4, 8, 16, 16]
    assert grown(planner(), 0.0, 5.0)[:4] == [1, 2, 1, 1]


@given(st.floats(0.0, 0.04), st.floats(0.0, 0.02), st.floats(0.001, 0.1))
def test_no_batch_of_a_steady_model_but_one_runs_longer_than_allowed(
    per_batch: float, per_row: float, longest: float
) -> None:
    """That one is the first of two rows, and takes at most twice as long as one; three, if a busy moment may have been why."""
    lane = planner(longest)
    bound = max(longest, (1.0 + SMALLER) * (per_batch + per_row))
    chosen = grown(lane, per_batch, per_row)
    late = [rows for rows in chosen if per_batch + per_row * rows > bound + 1e-9]
    assert late in ([], [2], [2] * TRIES)
    if len(late) > 1:
        assert per_batch + per_row * 2 <= NOISE * bound
    settled = chosen[-1]
    assert settled == MAX_ROWS or per_batch + per_row * 2 * settled > bound - 1e-9, "no smaller than it must be"


def test_a_busy_moment_does_not_make_batches_small_for_ever() -> None:
    """Ten runs in a row take longer than one row did; after that the model is as it was, and so are its batches."""
    lane = planner()
    lane.observe("a", 1, 0.030, 0.0)
    now = 0.0
    for _ in range(10):
        rows = lane.batch_rows("a", 0.0, now)
        lane.observe("a", rows, 0.030 if rows == 1 else 0.040, now)
    assert lane.batch_rows("a", 0.0, now) == 1
    for _ in range(12):
        now += FORGOTTEN / 3
        lane.observe("a", lane.batch_rows("a", 0.0, now), 0.030, now)
    assert lane.batch_rows("a", 0.0, now) == MAX_ROWS


def test_one_slow_run_does_not_rule_a_size_out() -> None:
    lane = planner()
    for rows, seconds in (
        (1, 0.030),
        (2, 0.035),
        (2, 0.030),
        (4, 0.036),
        (4, 0.036),
        (4, 0.030),
        (8, 0.030),
        (16, 0.031),
    ):
        assert lane.batch_rows("a", 0.0, 0.0) == rows
        lane.observe("a", rows, seconds, 0.0)
    assert lane.batch_rows("a", 0.0, 0.0) == MAX_ROWS


def test_a_model_that_becomes_slow_gets_small_batches_after_a_few_runs() -> None:
    lane = planner()
    assert grown(lane, 0.001, 0.0)[-1] == 16
    for _ in range(4):
        assert lane.batch_rows("a", 0.0, 0.0) == 16
        lane.observe("a", 16, 0.1, 0.0)
    assert lane.batch_rows("a", 0.0, 0.0) == 8


def test_a_second_batch_is_staged_only_if_both_are_short_enough() -> None:
    lane = planner()
    grown(lane, 0.006, 0.0)
    assert lane.batch_rows("a", 0.006, 0.0) == 16
    assert lane.batch_rows("a", 0.015, 0.0) == 0
    assert lane.batch_rows("b", 0.006, 0.0) == 0, "nothing is known of this shape"


# --- its share -----------------------------------------------------------------------------------------------------------


def test_the_share_grows_with_the_age_of_the_oldest_record() -> None:
    lane = planner(share=0.1)
    assert lane.share_at(0.0) == 0.1
    assert lane.share_at(300.0) == pytest.approx(0.3)
    assert lane.share_at(1e9) == LARGEST_SHARE
    assert lane.share_at(-5.0) == 0.1
    assert planner(share=0.8).share_at(1e9) == 0.8
    assert planner(share=0.0).share_at(1e9) == 0.0


@given(
    st.floats(0.0, 0.9),
    st.floats(0.0, 2000.0),
    st.lists(st.floats(0.0001, 0.05), min_size=1, max_size=300),
    st.floats(0.0001, 0.02),
)
def test_the_share_of_busy_instances_is_honoured_within_one_execution(
    share: float, age: float, interactive: list[float], turn: float
) -> None:
    """With one turn at most for each interactive batch, it cannot be more than that."""
    lane = planner(share=share)
    now = lane.share_at(age)
    owed = taken = 0.0
    for seconds in interactive:
        lane.earn(seconds, age)
        owed += min(seconds * now / (1.0 - now), turn)
        if lane.turn_due(turn):
            lane.spend(turn)
            taken += turn
        assert taken <= sum(interactive) * now / (1.0 - now) + 1e-9
        assert taken > owed - turn - 1e-9
    assert share > 0.0 or taken == 0.0


def test_unused_time_is_not_saved_up() -> None:
    lane = planner(share=0.5)
    for _ in range(1000):
        lane.earn(1.0, 0.0)
    turns = 0
    while lane.turn_due(0.02):
        lane.spend(0.02)
        turns += 1
    assert turns == 2


def test_idle_time_counts_towards_the_share_and_leaves_no_debt() -> None:
    lane = planner(share=0.5)
    lane.earn(0.02, 0.0)
    assert lane.turn_due(0.02)
    for _ in range(100):
        lane.spend_idle(1.0)
    assert not lane.turn_due(0.001)
    lane.earn(0.02, 0.0)
    assert lane.turn_due(0.02)
