"""Triton's own black-box cases, by the names of its L0 suites, as tables of arrivals and batches."""

from __future__ import annotations

import pytest

from protocol.errors import Code
from protocol.model_config.batching import QueuePolicy, TimeoutAction
from tests.workers.batching.turns import DELAY, at, batcher, item, play, queue
from workers.batching.dynamic import DynamicBatcher
from workers.batching.types import Reject, Release


def triton() -> DynamicBatcher[None]:
    """L0_batcher's model: preferred [2, 6], at most 8, 10 s."""
    return batcher(2, 6)


# --- L0_batcher ------------------------------------------------------------------------------------------------------


def test_l0_batcher_static_batch_preferred() -> None:
    played = play(triton(), [at(0, "a", 2), at(1, "b", 6)])
    assert played.batches == [(0, "a", 2, "preferred"), (1, "b", 6, "preferred")]


@pytest.mark.parametrize("rows", [1, 3])
def test_l0_batcher_static_batch_not_preferred_waits_the_delay(rows: int) -> None:
    assert play(triton(), [at(1, "a", rows)]).batches == [(1 + DELAY, "a", rows, "delay")]


def test_l0_batcher_static_batch_gt_max_preferred_goes_at_once() -> None:
    assert play(triton(), [at(0, "a", 7)]).batches == [(0, "a", 7, "full")]


def test_l0_batcher_multi_batch_not_preferred() -> None:
    played = play(triton(), [at(0, "a", 1), at(0.5, "b", 3)])
    assert played.batches == [(DELAY, "a b", 4, "delay")]


def test_l0_batcher_multi_batch_not_preferred_different_shape() -> None:
    played = play(triton(), [at(0, "a", 1), at(0, "b", 3), at(1, "c", 1, "8")])
    assert played.batches == [(1, "a b", 4, "closed"), (1 + DELAY, "c", 1, "delay")]


def test_l0_batcher_multi_batch_preferred_different_shape() -> None:
    played = play(triton(), [at(0, "a", 1), at(0, "b", 3), at(1, "c", 1, "8"), at(1, "d", 5, "8")])
    assert played.batches == [(1, "a b", 4, "closed"), (1, "c d", 6, "preferred")]


def test_l0_batcher_multi_batch_gt_max_preferred() -> None:
    """3 rows cannot grow by the next 7, which alone exceed the largest preferred size."""
    played = play(triton(), [at(0, "a", 3), at(1, "b", 7)])
    assert played.batches == [(1, "a", 3, "closed"), (1, "b", 7, "full")]


def test_l0_batcher_multi_batch_sum_gt_max_preferred() -> None:
    played = play(triton(), [at(0, "a", 3), at(1, "b", 4)])
    assert played.batches == [(1, "a", 3, "closed"), (1 + DELAY, "b", 4, "delay")]


def test_l0_batcher_multi_same_output_delay_elapsed_while_execution_was_blocked() -> None:
    played = play(triton(), [at(0, "a", 3), at(0, "b", 4), at(11, "c", 1)], busy_until=11)
    assert played.batches == [(11, "a b c", 8, "full")]


def test_l0_batcher_multi_different_outputs_share_a_batch() -> None:
    """The wanted outputs are no part of the shape class, so it cannot split a batch; neither can ragged shapes."""
    played = play(triton(), [at(0, "a"), at(0, "b")])
    assert played.batches == [(0, "a b", 2, "preferred")]


@pytest.mark.parametrize(("rows", "expected"), [(4, [4]), (5, [4, 1]), (7, [6, 1]), (3, [3])])
def test_l0_batcher_multi_batch_use_biggest_preferred(rows: int, expected: list[int]) -> None:
    played = play(batcher(4, 6, delay=0), [at(0, f"r{i}") for i in range(rows)])
    assert [size for _, size in played.sizes()] == expected


def test_l0_batcher_multi_batch_delayed_sum_is_released_whole_after_the_delay() -> None:
    """Preferred sizes count only as long as the delay lasts: 7 rows, preferred 6."""
    scheduler = batcher(6, delay=1.0)
    for name in "abcdefg":
        scheduler.add(item(name), 0)
    batch = scheduler.take(1.0)
    assert batch is not None
    assert (batch.rows, batch.reason) == (7, Release.FULL)


def test_l0_batcher_delay_scheduler_gate_of_eight() -> None:
    played = play(batcher(), [at(0, f"r{i}") for i in range(8)])
    assert played.batches == [(0, "r0 r1 r2 r3 r4 r5 r6 r7", 8, "full")]


def test_l0_batcher_preserve_ordering_answers_in_send_order() -> None:
    scheduler = batcher(2, preserve_ordering=True)
    batches = []
    for name in "abcdef":
        scheduler.add(item(name), 0)
    while (batch := scheduler.take(0)) is not None:
        batches.append(batch)
    first, second, third = batches
    assert [batch.sequence for batch in batches] == [0, 1, 2]
    assert scheduler.completed(third, 1) == []
    assert scheduler.completed(first, 2) == [first]
    assert scheduler.completed(second, 3) == [second, third]


# --- L0_model_queue: preferred [4, 8], at most 32, 10 s ---------------------------------------------------------------


def test_l0_model_queue_max_queue_size() -> None:
    """While 8 rows run, 10 requests come: two too many, although a batch of 8 is there to be staged before they come."""
    played = play(queue(max_queue_size=8), [at(i, f"r{i}") for i in range(10)], busy_until=9.5)
    assert [(ref, why.reason, why.code) for _, ref, why in played.rejected] == [
        ("r8", Reject.QUEUE_FULL, Code.EXHAUSTED),
        ("r9", Reject.QUEUE_FULL, Code.EXHAUSTED),
    ]
    assert all("Exceeds maximum queue size" in why.message for _, _, why in played.rejected)
    assert played.batches == [(9.5, "r0 r1 r2 r3 r4 r5 r6 r7", 8, "preferred")]


def test_l0_model_queue_policy_delay() -> None:
    """The expired one moves behind the fresh ones, which then make a preferred batch, and waits out the queue delay."""
    policy = queue(timeout_action=TimeoutAction.DELAY, default_timeout=0.1)
    played = play(policy, [at(0, "a", 1), at(0.2, "b", 2), at(0.2, "c", 2)])
    assert played.batches == [(0.2, "b c", 4, "preferred"), (DELAY, "a", 1, "delay")]
    assert played.expired == []


def test_l0_model_queue_policy_delay_wakes_to_reorder() -> None:
    policy = queue(timeout_action=TimeoutAction.DELAY, default_timeout=0.1)
    played = play(policy, [at(0, "a", 1), at(0.05, "b", 2), at(0.05, "c", 2)])
    assert played.batches == [(0.1, "b c", 4, "preferred"), (DELAY, "a", 1, "delay")]


def test_l0_model_queue_policy_reject() -> None:
    played = play(queue(default_timeout=0.1), [at(0, "a", 1), at(0.2, "b", 2), at(0.2, "c", 2)])
    assert played.expired == [(0.1, "a")]
    assert played.batches == [(0.2, "b c", 4, "preferred")]


def test_l0_model_queue_timeout_override_smaller_counts() -> None:
    policy = queue(default_timeout=1.0, allow_timeout_override=True)
    played = play(policy, [at(0, "a", 1, timeout=0.1), at(0.2, "b", 2), at(0.2, "c", 2)])
    assert played.expired == [(0.1, "a")]
    assert played.batches == [(0.2, "b c", 4, "preferred")]


@pytest.mark.parametrize(("allowed", "timeout"), [(True, 10.0), (True, 0.0), (True, None), (False, 0.1)])
def test_l0_model_queue_timeout_override_larger_or_not_allowed_is_ignored(allowed: bool, timeout: float | None) -> None:
    policy = queue(default_timeout=1.0, allow_timeout_override=allowed)
    played = play(policy, [at(0, "a", 1, timeout=timeout), at(0.2, "b", 2), at(0.2, "c", 2)])
    assert played.expired == [(1.0, "a")]
    assert played.batches == [(1.0, "b c", 4, "preferred")]


def test_l0_model_queue_timeout_override_counts_without_a_default() -> None:
    """Triton ignores it; see PolicyQueue."""
    played = play(queue(allow_timeout_override=True), [at(0, "a", 1, timeout=0.5)])
    assert played.expired == [(0.5, "a")]


@pytest.mark.parametrize("levels", [2, 2**32 + 1, 2**64 - 1])
def test_l0_model_queue_priority_levels(levels: int) -> None:
    """Queued last, served first; priority 0 and the default level are the same."""
    policy = queue(levels=levels, default=levels)
    played = play(policy, [at(0, "a", 2), at(0.1, "b", 1, priority=levels), at(0.3, "c", 2, priority=1)])
    assert played.batches == [(0.3, "c a", 4, "preferred"), (0.1 + DELAY, "b", 1, "delay")]


def test_l0_model_queue_priority_above_the_levels_is_the_default() -> None:
    policy = queue(levels=3, default=1)
    played = play(policy, [at(0, "a", 1, priority=3), at(0, "b", 2, priority=9), at(0, "c", 2, priority=0)])
    assert played.batches[0] == (0, "b c", 4, "preferred")


def test_l0_model_queue_priority_with_policy() -> None:
    """Level 1 delays what expires, level 2 rejects it; both make room for a preferred batch of 4 at that moment."""
    scheduler = batcher(
        4, 8, 32, maximum=32, priority_levels=2, default_priority_level=2,
        default_queue_policy=QueuePolicy(TimeoutAction.DELAY, 11.0, allow_timeout_override=True),
        priority_queue_policies={2: QueuePolicy(TimeoutAction.REJECT, 11.0, allow_timeout_override=True)},
    )  # fmt: skip
    arrivals = [
        at(0.0, "high-a", 2, priority=1), at(0.25, "high-short", 1, priority=1, timeout=1.0), at(0.5, "high-b", 2, priority=1),
        at(0.5, "low-short", 2, priority=2, timeout=2.0), at(0.75, "low-a", 3, priority=2), at(1.0, "low-b", 6, priority=2),
    ]  # fmt: skip
    played = play(scheduler, arrivals)
    assert played.expired == [(2.5, "low-short")]
    assert played.batches == [
        (1.25, "high-a high-b", 4, "preferred"),
        (2.5, "high-short low-a", 4, "preferred"),
        (1.0 + DELAY, "low-b", 6, "delay"),
    ]


def test_l0_model_queue_sizes_are_per_level() -> None:
    policy = queue(levels=2, default=2, policies={1: QueuePolicy(max_queue_size=1)}, max_queue_size=2)
    arrivals = [at(0, f"{level}-{i}", priority=level) for level in (1, 2) for i in range(3)]
    played = play(policy, arrivals, busy_until=1)
    assert [ref for _, ref, _ in played.rejected] == ["1-1", "1-2", "2-2"]


def test_l0_model_queue_delayed_requests_count_in_the_queue_size() -> None:
    scheduler = queue(timeout_action=TimeoutAction.DELAY, default_timeout=0.1, max_queue_size=1)
    scheduler.add(item("a"), 0)
    scheduler.expire(0.2)
    rejection = scheduler.add(item("b", enqueued=0.2), 0.2)
    assert rejection is not None
    assert rejection.reason == Reject.QUEUE_FULL


# --- L0_optional_input, L0_request_cancellation -----------------------------------------------------------------------


def test_l0_optional_input_identical_sets_share_a_batch() -> None:
    assert play(batcher(2), [at(0, "a", 1, "x"), at(0, "b", 1, "x")]).sizes() == [(0, 2)]


def test_l0_optional_input_mixed_sets_run_apart() -> None:
    played = play(batcher(), [at(0, "a", 1, "x"), at(1, "b", 1, "xy"), at(2, "c", 1, "x"), at(3, "d", 1, "y")])
    assert played.batches == [
        (1, "a", 1, "closed"),
        (2, "b", 1, "closed"),
        (3, "c", 1, "closed"),
        (3 + DELAY, "d", 1, "delay"),
    ]


def test_l0_request_cancellation_of_a_queued_request_never_runs_it() -> None:
    scheduler = batcher(2)
    scheduler.add(item("a", nbytes=7), 0)
    cancelled = scheduler.cancel("a")
    assert cancelled is not None
    assert cancelled.ref == "a"
    assert (scheduler.depth, scheduler.rows, scheduler.nbytes) == (0, 0, 0)
    scheduler.add(item("b"), 0)
    scheduler.add(item("c"), 0)
    batch = scheduler.take(0)
    assert batch is not None
    assert [queued.ref for queued in batch.items] == ["b", "c"]


def test_l0_request_cancellation_of_a_running_request_is_too_late() -> None:
    scheduler = batcher(1)
    scheduler.add(item("a"), 0)
    assert scheduler.take(0) is not None
    assert scheduler.cancel("a") is None
    assert scheduler.cancel("never seen") is None
