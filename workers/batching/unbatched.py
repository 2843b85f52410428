"""The scheduler of models without dynamic batching: every request runs alone, first come, first served."""

from __future__ import annotations

from typing import TypeVar

from protocol.model_config.batching import DynamicBatching
from workers.batching.base import QueuedScheduler
from workers.batching.types import Batch, Release

T = TypeVar("T")


class NoBatching(QueuedScheduler[T]):
    """A `Scheduler` whose batches hold one request. Deadlines hold; there are no priorities, bounds or queue timeouts.

    Args:
        max_batch_size: the most rows one request may bring; 0 for a model without a batch dimension.
    """

    __slots__ = ()

    def __init__(self, max_batch_size: int) -> None:
        super().__init__(max_batch_size, DynamicBatching())

    def take(self, now: float, *, backlog_rows: int = 0, idle: bool = True) -> Batch[T] | None:
        """See `Scheduler.take`; waiting improves no batch, so one may always be staged."""
        self._queue.settle(now)
        first = self._queue.first()
        return None if first is None else self._release(1, first.rows, Release.ALONE, now)

    def wake_at(self, *, backlog_rows: int = 0, idle: bool = True) -> float | None:
        """See `Scheduler.wake_at`."""
        return self._queue.next_due()
