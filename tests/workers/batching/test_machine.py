"""Every scheduler against a list: these hold for any calls in any order.

- Every item leaves exactly once: refused, in a batch, expired or cancelled.
- A batch is the head of the service order, has one shape class, fits, and holds nothing that is late.
- Sleeping until `wake_at` always makes progress, and never past the delay, a deadline or a queue timeout.
- Its reason is true, and how many go is what Triton's rules say, computed another way.
- Nothing partial is staged while no instance is idle.
- What the batcher keeps between calls changes no decision: a new one with the same items decides the same.
"""

from __future__ import annotations

import math
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.model_config.batching import DynamicBatching, QueuePolicy
from tests.workers.batching.reference import MAXIMUM, Reference, arrivals, arriving, plain, rich
from workers.batching import for_config
from workers.batching.dynamic import DynamicBatcher
from workers.batching.types import Batch, Item, Reject, Release


class Machine(RuleBasedStateMachine):
    scheduler: Any
    reference: Reference

    @initialize(
        policy=st.one_of(plain, rich, rich),
        dynamic=st.sampled_from([True] * 7 + [False]),
        shapes=st.sampled_from(["a", "a", "ab"]),
    )
    def start(self, policy: DynamicBatching, dynamic: bool, shapes: str) -> None:
        self.shapes = shapes
        self.policy = policy if dynamic else DynamicBatching()
        self.dynamic = dynamic
        self.scheduler = for_config(MAXIMUM, policy if dynamic else None)
        self.reference = Reference(self.policy)
        self.largest = max(self.policy.preferred_batch_sizes, default=MAXIMUM)
        self.now = 100.0
        self.added = 0
        self.draining = False
        self.running: list[Batch[int]] = []
        self.formed: list[Batch[int]] = []
        self.answered: list[Batch[int]] = []

    # --- what may happen ---

    @rule(several=st.lists(arrivals, min_size=1, max_size=4))
    def add_several(self, several: list[int]) -> None:
        for code in several:
            self.add(arriving(code, f"{self.added:04}", self.now, self.shapes))

    def add(self, item: Item[int]) -> None:
        self.added += 1
        rejection = self.scheduler.add(item, self.now)
        assert (rejection and rejection.reason) == self.expected_rejection(item)
        if rejection is None:
            self.reference.items.append(item)

    def expected_rejection(self, item: Item[int]) -> Reject | None:
        if item.rows > MAXIMUM:
            return Reject.TOO_MANY_ROWS
        if self.draining:
            return Reject.DRAINING
        limit = self.reference.policy_of(item).max_queue_size or math.inf
        if len(self.beside(item)) >= limit:
            self.reference.settled = self.now
        return Reject.QUEUE_FULL if len(self.beside(item)) >= limit else None

    def beside(self, item: Item[int]) -> list[Item[int]]:
        level = self.reference.level(item)
        return [other for other in self.reference.order() if self.reference.level(other) == level]

    @precondition(lambda self: self.added)
    @rule(back=st.integers(1, 9))
    def cancel(self, back: int) -> None:
        ref = f"{self.added - back:04}"
        cancelled = self.scheduler.cancel(ref)
        there = [item for item in self.reference.order() if item.ref == ref]
        assert ([] if cancelled is None else [cancelled]) == there
        self.reference.remove(there)

    @precondition(lambda self: self.reference.items)
    @rule()
    def add_the_same_again(self) -> None:
        queued = [item for item in self.reference.order() if item.rows <= MAXIMUM]
        if queued and not self.draining:
            rejection = self.scheduler.add(queued[0], self.now)
            assert rejection is not None
            assert rejection.reason == Reject.DUPLICATE

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        expired = self.scheduler.expire(self.now)
        self.reference.settled = self.now
        due = [item for item in self.reference.items if self.reference.gone_at(item) <= self.now]
        assert sorted(item.ref for item in expired) == sorted(item.ref for item in due)
        for item in expired:
            assert item.late(self.now) or self.reference.timeout_at(item) <= self.now
        self.reference.remove(expired)

    @precondition(lambda self: self.reference.items)
    @rule(idle=st.sampled_from([False, False, True]), backlog_rows=st.sampled_from([0, 1, 5]))
    def take(self, idle: bool, backlog_rows: int) -> None:
        self.take_and_check(idle, backlog_rows)

    @precondition(lambda self: self.reference.items)
    @rule(idle=st.sampled_from([False, True]), backlog_rows=st.sampled_from([0, 1, 2]))
    def sleep(self, idle: bool, backlog_rows: int) -> None:
        """A runner's turn, then its sleep, then the checks."""
        self.expire()
        while self.take_and_check(idle, backlog_rows) is not None:
            pass
        wake = self.scheduler.wake_at(backlog_rows=backlog_rows, idle=idle)
        self.check_wake(wake, idle)
        if wake is None:
            return
        assert wake > self.now
        turned = [item for item in self.reference.items if self.reference.timeout_at(item) == wake]
        before = len(self.reference.items)
        self.now = wake
        self.expire()
        self.take_and_check(idle, backlog_rows)
        assert len(self.reference.items) < before or turned

    @rule(surely=st.sampled_from([False] * 7 + [True]))
    def drain(self, surely: bool) -> None:
        if surely:
            self.scheduler.drain()
            self.draining = True

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.running) - 1))
        self.answered += self.scheduler.completed(self.running.pop(index), self.now)

    # --- what must hold ---

    def take_and_check(self, idle: bool, backlog_rows: int) -> Batch[int] | None:
        decided = self.decide_anew(idle, backlog_rows)
        batch: Batch[int] | None = self.scheduler.take(self.now, backlog_rows=backlog_rows, idle=idle)
        self.reference.settled = max(self.reference.settled, self.now)
        order = self.reference.order()
        if batch is None:
            self.check_waiting(order, idle, backlog_rows)
        else:
            self.check_batch(batch, order, idle)
            if self.dynamic:
                self.check_reason(batch, order, backlog_rows)
            self.reference.remove(batch.items)
            self.running.append(batch)
            self.formed.append(batch)
        if decided is not None:
            assert decided == self.decision(batch)
        return batch

    def decide_anew(self, idle: bool, backlog_rows: int) -> Any:
        """What a new batcher would do, as (refs, reason); None where it does not apply: history may have moved items."""
        if not self.dynamic or self.policy.priority_levels or self.policy.default_queue_policy != QueuePolicy():
            return None
        fresh: DynamicBatcher[int] = DynamicBatcher(MAXIMUM, self.policy)
        for item in self.reference.items:
            fresh.add(item, self.now)
        if self.draining:
            fresh.drain()
        fresh.expire(self.now)
        batch = fresh.take(self.now, backlog_rows=backlog_rows, idle=idle)
        return self.decision(batch)

    @staticmethod
    def decision(batch: Batch[int] | None) -> tuple[list[str], str]:
        return ([], "") if batch is None else ([item.ref for item in batch.items], batch.reason.value)

    def check_batch(self, batch: Batch[int], order: list[Item[int]], idle: bool) -> None:
        count = len(batch.items)
        assert batch.items == order[:count]
        assert count >= 1
        assert batch.rows == sum(item.rows for item in batch.items) <= MAXIMUM
        assert len({item.shape_class for item in batch.items}) == 1
        assert batch.formed == self.now
        assert batch.sequence == len(self.formed)
        assert not any(item.late(self.now) for item in batch.items)
        if not self.dynamic:
            assert (count, batch.reason) == (1, Release.ALONE)
            return
        assert count == self.expected_count(order)
        if not idle:
            assert not self.policy.priority_levels
            quiet = QueuePolicy(self.policy.default_queue_policy.timeout_action)
            assert self.policy.default_queue_policy == quiet, "Triton keeps it in the queue, and so do we"
            follower = order[count] if count < len(order) else None
            closed = follower is not None and (
                follower.shape_class != batch.items[0].shape_class or follower.rows + batch.rows > MAXIMUM
            )
            assert batch.rows >= self.largest or closed or self.draining

    def check_reason(self, batch: Batch[int], order: list[Item[int]], backlog_rows: int) -> None:
        delay = self.policy.max_queue_delay
        until = min(item.enqueued for item in batch.items) + delay
        true = {
            Release.PREFERRED: batch.rows in self.policy.preferred_batch_sizes,
            Release.FULL: batch.rows >= self.largest,
            Release.CLOSED: len(batch.items) < len(order),
            Release.NO_DELAY: delay == 0,
            Release.DELAY: delay > 0 and until <= self.now,
            Release.DRAIN: self.draining,
            Release.DEADLINE: any(item.deadline is not None and item.deadline <= until for item in batch.items),
            Release.BACKLOG: batch.rows + backlog_rows >= self.largest,
            Release.AGE: backlog_rows == 0 and any(0 < item.published <= self.now - delay for item in batch.items),
        }
        assert true[batch.reason]

    def expected_count(self, order: list[Item[int]]) -> int:
        """How many Triton would send, given that it sends: by prefix sums of the longest run that could be one batch."""
        sums: list[int] = []
        for item in order:
            rows = (sums[-1] if sums else 0) + item.rows
            if rows > MAXIMUM or item.shape_class != order[0].shape_class:
                break
            sums.append(rows)
        delay = self.policy.max_queue_delay
        if delay and min(item.enqueued for item in order[: len(sums)]) + delay <= self.now:
            return len(sums)
        preferred = [
            count for count, rows in enumerate(sums, 1) if rows in (self.policy.preferred_batch_sizes or (MAXIMUM,))
        ]
        return preferred[-1] if preferred else max(1, sum(rows <= self.largest for rows in sums))

    def check_waiting(self, order: list[Item[int]], idle: bool, backlog_rows: int) -> None:
        if not order:
            return
        assert self.dynamic
        if not idle:
            return
        until = min(item.enqueued for item in order) + self.policy.max_queue_delay
        assert self.policy.max_queue_delay > 0
        assert self.now < until
        assert sum(item.rows for item in order) + backlog_rows < self.largest
        assert len({item.shape_class for item in order}) == 1
        assert not self.draining
        assert all(item.deadline is None or item.deadline > until for item in order)
        if backlog_rows == 0:
            assert all(not item.published or item.published + self.policy.max_queue_delay > self.now for item in order)

    def check_wake(self, wake: float | None, idle: bool) -> None:
        order = self.reference.order()
        limits = [self.reference.gone_at(item) for item in order]
        if idle and order:
            limits.append(min(item.enqueued for item in order) + self.policy.max_queue_delay)
        latest = min(limits, default=math.inf)
        assert latest == math.inf if wake is None else wake <= latest

    @invariant()
    def sums(self) -> None:
        if not hasattr(self, "reference"):
            return
        if self.reference.settled == self.now:
            order = self.reference.order()
            assert (self.scheduler.depth, self.scheduler.rows, self.scheduler.nbytes) == (
                len(order),
                sum(item.rows for item in order),
                sum(item.nbytes for item in order),
            )

    def teardown(self) -> None:
        if not hasattr(self, "reference"):
            return
        self.drain(surely=True)
        self.expire()
        while self.take_and_check(True, 0) is not None:
            pass
        assert self.reference.items == []
        assert self.scheduler.depth == self.scheduler.rows == self.scheduler.nbytes == 0
        for batch in self.running:
            self.answered += self.scheduler.completed(batch, self.now)
        assert len(self.answered) == len(self.formed)
        if self.policy.preserve_ordering:
            assert self.answered == self.formed


TestScheduler = Machine.TestCase
TestScheduler.settings = settings(
    max_examples=300, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@settings(max_examples=300, deadline=None)
@given(
    policy=st.one_of(plain, rich),
    shapes=st.sampled_from(["a", "ab"]),
    steps=st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.5, 1.0]), arrivals), min_size=1, max_size=16),
    wait=st.sampled_from([0.0, 1.0, 3.0, 8.0, 9.0]),
    idle=st.sampled_from([True, True, False]),
    backlog_rows=st.sampled_from([0, 1, 3, 9]),
)
def test_turns_after_the_instance_was_busy(
    policy: DynamicBatching,
    shapes: str,
    steps: list[tuple[float, int]],
    wait: float,
    idle: bool,
    backlog_rows: int,
) -> None:
    """Long queues and overdue delays, which a random walk hardly reaches, then sleep after sleep; the checks are the machine's."""
    machine = Machine()
    machine.start(policy, True, shapes)
    for step, arrival in steps:
        machine.now += step
        machine.add_several([arrival])
    machine.now += wait
    for _ in range(4):
        machine.sleep(idle, backlog_rows)
        machine.sums()
    machine.teardown()
