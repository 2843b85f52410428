"""The parts that schedulers share: the queue, expiry, cancellation, draining and the order of answers."""

from __future__ import annotations

from typing import Generic, TypeVar

from protocol.errors import Code
from protocol.model_config.batching import DynamicBatching
from workers.batching.queue import PolicyQueue
from workers.batching.types import Batch, Item, Reject, Rejection, Release

T = TypeVar("T")


class QueuedScheduler(Generic[T]):
    """The part of `Scheduler` that does not depend on how batches are formed.

    With `preserve_ordering` answers leave in the order in which batches were formed, which is the order of arrival: `completed`
    holds back a batch that overtook another one on a second instance. Items that expire or are cancelled are answered at once.
    """

    __slots__ = ("_draining", "_held", "_max_rows", "_next_answered", "_preserve_ordering", "_queue", "_sequence")

    def __init__(self, max_batch_size: int, policy: DynamicBatching) -> None:
        self._max_rows = max(1, max_batch_size)
        self._queue: PolicyQueue[T] = PolicyQueue(policy)
        self._preserve_ordering = policy.preserve_ordering
        self._draining = False
        self._sequence = 0
        self._next_answered = 0
        self._held: dict[int, Batch[T]] = {}

    def add(self, item: Item[T], now: float) -> Rejection | None:
        """See `Scheduler.add`."""
        if item.rows > self._max_rows:
            message = f"inference request batch-size must be <= {self._max_rows}, got {item.rows}"
            return Rejection(Reject.TOO_MANY_ROWS, Code.INVALID_ARGUMENT, message)
        if self._draining:
            return Rejection(
                Reject.DRAINING, Code.UNAVAILABLE, "this worker is shutting down and takes no new requests"
            )
        return self._queue.add(item, now)

    def expire(self, now: float) -> list[Item[T]]:
        """See `Scheduler.expire`."""
        self._queue.settle(now)
        return self._queue.expired()

    def cancel(self, ref: str) -> Item[T] | None:
        """See `Scheduler.cancel`."""
        return self._queue.cancel(ref)

    def completed(self, batch: Batch[T], now: float) -> list[Batch[T]]:
        """See `Scheduler.completed`."""
        if not self._preserve_ordering:
            return [batch]
        self._held[batch.sequence] = batch
        answered: list[Batch[T]] = []
        while self._next_answered in self._held:
            answered.append(self._held.pop(self._next_answered))
            self._next_answered += 1
        return answered

    def drain(self) -> None:
        """See `Scheduler.drain`."""
        self._draining = True

    @property
    def depth(self) -> int:
        """Items queued."""
        return len(self._queue)

    @property
    def rows(self) -> int:
        """Rows queued."""
        return self._queue.rows

    @property
    def nbytes(self) -> int:
        """Bytes queued."""
        return self._queue.nbytes

    def _release(self, count: int, rows: int, reason: Release, now: float) -> Batch[T]:
        batch = Batch(self._queue.pop(count), rows, reason, now, self._sequence)
        self._sequence += 1
        return batch
