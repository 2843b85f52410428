"""The dynamic batcher: Triton's rules (`GetDynamicBatch`) as a pure state machine that also knows the log.

Invariants: a batch is a prefix of the service order, never a selection from it; it has one shape class and at most
`max_batch_size` rows and no item that is due; while no instance is idle, only a batch that waiting cannot improve is formed.

Where this goes beyond Triton:
- the delay runs from intake, so that records that are read late from a long log still share a batch; but no request waits while
  the rows that would fill the batch are known to be in the log (BACKLOG), nor after it has spent the delay since it was published
  and the log holds no more (AGE);
- a deadline that would pass during the delay ends the wait (DEADLINE).
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, NamedTuple, TypeVar

from protocol.model_config.batching import DynamicBatching
from workers.batching.base import QueuedScheduler
from workers.batching.types import Batch, Item, Rejection, Release

T = TypeVar("T")


class _Cut(NamedTuple):
    """The decision to release the first `items` of the queue."""

    items: int
    rows: int
    reason: Release


class _Pending:
    """The longest prefix of the queue that could be one batch, with the facts that the rules need.

    Attributes:
        count, rows: its size.
        closed: it cannot grow: it has the maximum size, or the next item does not fit.
        best_count, best_rows: the prefix to prefer while the delay lasts: the largest of a preferred size, else the longest
            below the largest preferred size once an item would exceed that; 0 if there is neither.
        enqueued, published, deadline: the earliest of each; infinity for none.
    """

    __slots__ = (
        "_largest", "_max_rows", "_preferred", "_shape_class", "best_count", "best_rows", "closed", "count", "deadline",
        "enqueued", "published", "rows",
    )  # fmt: skip

    def __init__(self, max_rows: int, preferred: frozenset[int]) -> None:
        self._max_rows = max_rows
        self._preferred = preferred
        self._largest = max(preferred)
        self._shape_class: Hashable = None
        self.restart()

    def restart(self) -> None:
        """Forget every item."""
        self.count = self.rows = self.best_count = self.best_rows = 0
        self.closed = False
        self.enqueued = self.published = self.deadline = math.inf

    def extend(self, item: Item[Any]) -> None:
        """Consider the item after the prefix; must not be called once closed."""
        rows = self.rows + item.rows
        if self.count == 0:
            self._shape_class = item.shape_class
        else:
            if rows > self._largest and self.best_count == 0:
                self.best_count, self.best_rows = self.count, self.rows
            if rows > self._max_rows or item.shape_class != self._shape_class:
                self.closed = True
                return
        self.count += 1
        self.rows = rows
        if rows in self._preferred:
            self.best_count, self.best_rows = self.count, rows
        if rows == self._max_rows:
            self.closed = True
        if item.enqueued < self.enqueued:
            self.enqueued = item.enqueued
        if 0 < item.published < self.published:
            self.published = item.published
        if item.deadline is not None and item.deadline < self.deadline:
            self.deadline = item.deadline


class DynamicBatcher(QueuedScheduler[T]):
    """A `Scheduler` that batches requests.

    Args:
        max_batch_size: rows, >= 1.
        policy: the model's `dynamic_batching`, already checked; no preferred sizes means the maximum is preferred.
    """

    __slots__ = ("_delay", "_largest", "_pending", "_preferred", "_seen")

    def __init__(self, max_batch_size: int, policy: DynamicBatching) -> None:
        super().__init__(max_batch_size, policy)
        self._delay = policy.max_queue_delay
        self._preferred = frozenset(policy.preferred_batch_sizes) or frozenset((self._max_rows,))
        self._largest = max(self._preferred)
        self._pending = _Pending(self._max_rows, self._preferred)
        self._seen = self._queue.changes

    def add(self, item: Item[T], now: float) -> Rejection | None:
        """See `Scheduler.add`."""
        rejection = super().add(item, now)
        if rejection is None and self._seen == self._queue.changes and not self._pending.closed:
            self._pending.extend(item)
        return rejection

    def take(self, now: float, *, backlog_rows: int = 0, idle: bool = True) -> Batch[T] | None:
        """See `Scheduler.take`."""
        self._queue.settle(now)
        if not idle and not self._queue.immediate:
            return None
        pending = self._look()
        if pending.count == 0:
            return None
        cut = self._cut_by_size(pending, now) or self._cut_by_time(pending, now, backlog_rows)
        if cut is None or not (idle or self._is_final(cut, pending)):
            return None
        return self._release(*cut, now)

    def wake_at(self, *, backlog_rows: int = 0, idle: bool = True) -> float | None:
        """See `Scheduler.wake_at`; while no instance is idle only deadlines and timeouts matter."""
        due = self._queue.next_due()
        pending = self._look()
        if not idle or pending.count == 0:
            return due
        started = pending.enqueued if backlog_rows else min(pending.enqueued, pending.published)
        wake = started + self._delay
        return wake if due is None else min(wake, due)

    def _look(self) -> _Pending:
        """The pending prefix; kept while the queue only grows at its end, so that each item is read about once."""
        if self._seen != self._queue.changes:
            self._seen = self._queue.changes
            self._pending.restart()
            for item in self._queue:
                self._pending.extend(item)
                if self._pending.closed:
                    break
        return self._pending

    def _cut_by_size(self, pending: _Pending, now: float) -> _Cut | None:
        exceeded = self._delay > 0 and pending.enqueued + self._delay <= now
        if pending.best_count and not exceeded:
            rows, reason = pending.best_rows, Release.PREFERRED
            if rows == self._max_rows:
                reason = Release.FULL
            elif rows not in self._preferred:
                reason = Release.CLOSED
            return _Cut(pending.best_count, rows, reason)
        if pending.rows >= self._largest:
            return _Cut(pending.count, pending.rows, Release.FULL)
        if pending.closed:
            return _Cut(pending.count, pending.rows, Release.CLOSED)
        return None

    def _cut_by_time(self, pending: _Pending, now: float, backlog_rows: int) -> _Cut | None:
        until = pending.enqueued + self._delay
        if self._delay == 0:
            reason = Release.NO_DELAY
        elif until <= now:
            reason = Release.DELAY
        elif self._draining:
            reason = Release.DRAIN
        elif pending.deadline <= until:
            reason = Release.DEADLINE
        elif pending.rows + backlog_rows >= self._largest:
            reason = Release.BACKLOG
        elif backlog_rows == 0 and pending.published + self._delay <= now:
            reason = Release.AGE
        else:
            return None
        return _Cut(pending.count, pending.rows, reason)

    def _is_final(self, cut: _Cut, pending: _Pending) -> bool:
        """Whether waiting cannot improve it: it has the largest preferred size, or the next item does not fit."""
        return self._draining or cut.rows >= self._largest or (pending.closed and cut.items == pending.count)
