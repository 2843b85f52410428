"""The queue on its own: order, bounds, and that its reminders do not outgrow it."""

from __future__ import annotations

import math

from protocol.errors import Code
from protocol.model_config.batching import DynamicBatching, QueuePolicy, TimeoutAction
from tests.workers.batching.turns import item
from workers.batching.queue import PolicyQueue
from workers.batching.types import Item, Reject


def refs(items: list[Item[None]]) -> str:
    return " ".join(queued.ref for queued in items)


def leveled(levels: int, policy: QueuePolicy = QueuePolicy()) -> PolicyQueue[None]:  # noqa: B008  # frozen
    return PolicyQueue(DynamicBatching(priority_levels=levels, default_priority_level=2, default_queue_policy=policy))


def test_levels_are_served_in_order_and_each_first_come_first_served() -> None:
    queue = leveled(3)
    for ref, priority in (("c1", 3), ("a1", 1), ("b1", 2), ("c2", 3), ("b2", 0), ("b3", 4), ("a2", 1)):
        queue.add(item(ref, priority=priority), 0)
    assert refs(list(queue)) == "a1 a2 b1 b2 b3 c1 c2"
    assert refs(queue.pop(4)) == "a1 a2 b1 b2"
    assert refs(queue.pop(3)) == "b3 c1 c2"
    assert len(queue) == 0


def test_delayed_items_come_after_the_fresh_of_their_level_and_before_the_next_level() -> None:
    queue = leveled(2, QueuePolicy(TimeoutAction.DELAY, allow_timeout_override=True))
    for ref, priority, timeout in (("slow", 1, 3.0), ("fast", 1, 2.0), ("fresh", 1, None), ("low", 2, None)):
        queue.add(item(ref, priority=priority, timeout=timeout), 0)
    assert queue.next_due() == 2.0
    queue.settle(5.0)
    queue.add(item("newer", priority=1, enqueued=5.0), 5.0)
    assert refs(list(queue)) == "fresh newer fast slow low"
    assert queue.next_due() is None
    assert refs(queue.pop(5)) == "fresh newer fast slow low"


def test_a_delayed_item_still_has_its_deadline() -> None:
    queue = leveled(2, QueuePolicy(TimeoutAction.DELAY, default_timeout=1.0))
    queue.add(item("a", deadline=3.0), 0)
    queue.settle(2.0)
    assert queue.next_due() == 3.0
    queue.settle(3.0)
    assert queue.next_due() == -math.inf
    assert refs(queue.expired()) == "a"
    assert queue.expired() == []


def test_a_ref_is_queued_once_at_a_time() -> None:
    queue = leveled(0)
    assert queue.add(item("a"), 0) is None
    rejection = queue.add(item("a"), 0)
    assert rejection is not None
    assert (rejection.reason, rejection.code) == (Reject.DUPLICATE, Code.ALREADY_EXISTS)
    queue.cancel("a")
    assert queue.add(item("a"), 0) is None


def test_a_reminder_of_an_item_that_left_does_not_touch_its_successor_of_the_same_ref() -> None:
    queue = leveled(0)
    queue.add(item("a", deadline=1.0), 0)
    queue.cancel("a")
    queue.add(item("b", deadline=1.0), 0)
    queue.cancel("b")
    queue.add(item("a", deadline=9.0), 0)
    queue.settle(2.0)
    assert refs(list(queue)) == "a"
    assert queue.next_due() == 9.0


def test_reminders_do_not_outlive_their_items_by_much() -> None:
    """A deadline is often a minute away while an item stays for milliseconds: memory must follow the depth."""
    queue = leveled(0, QueuePolicy(default_timeout=60.0, allow_timeout_override=True))
    queue.add(item("stays", deadline=5.0, timeout=4.0), 0)
    for number in range(2000):
        queue.add(item(f"r{number}", deadline=60.0 + number), 0)
        queue.cancel(f"r{number}")
    assert len(queue._due) <= 70
    assert queue.next_due() == 4.0


def test_an_infinite_deadline_is_none() -> None:
    queue = leveled(0)
    queue.add(item("a", deadline=math.inf), 0)
    assert queue.next_due() is None


def test_empty_levels_are_not_kept() -> None:
    """Priorities come from callers, and a model may declare 2**63 levels."""
    queue = leveled(2**63)
    for number in range(1, 50):
        queue.add(item(f"r{number}", priority=number * 1000), 0)
    queue.cancel("r7")
    queue.pop(48)
    assert (len(queue._levels), len(queue._numbers)) == (0, 0)


def test_a_policy_for_a_level_is_nothing_without_levels() -> None:
    queue: PolicyQueue[None] = PolicyQueue(DynamicBatching(priority_queue_policies={0: QueuePolicy(max_queue_size=1)}))
    queue.add(item("a"), 0)
    assert queue.add(item("b"), 0) is None
    assert queue.immediate
