"""The contract of the schedulers: items, batches, why they are released or rejected, and the calls that a runner makes.

Invariants: time is an argument, in seconds on one clock; an item that was added leaves exactly once, in a batch, by `expire`
or by `cancel`; a scheduler never reads a payload.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Hashable
from typing import Final, Generic, Protocol, TypeVar

from protocol.deadline import too_late
from protocol.errors import Code

T = TypeVar("T")

OF_LANE: Final = -1
"""The sequence of a batch that holds only rows of the batch lane."""


class Release(enum.StrEnum):
    """Why a batch was released; the values are labels of metrics and part of every answer, so they are only ever added to."""

    PREFERRED = "preferred"
    """It has a preferred size."""
    FULL = "full"
    """It has the maximum batch size, or no preferred size is left that it could grow to."""
    CLOSED = "closed"
    """The next request does not fit: other shapes or optional inputs, or too many rows."""
    DELAY = "delay"
    """Its oldest request has waited `max_queue_delay`."""
    NO_DELAY = "no_delay"
    """The model has no `max_queue_delay`: an idle instance takes what is queued."""
    BACKLOG = "backlog"
    """The rows that would fill it are in the log already: waiting for callers gains nothing."""
    AGE = "age"
    """Its oldest request has spent `max_queue_delay` since it was published, and the log holds no more."""
    DEADLINE = "deadline"
    """Waiting out `max_queue_delay` would let a request's deadline pass."""
    DRAIN = "drain"
    """Nothing more will come."""
    ALONE = "alone"
    """The model does not batch."""
    BATCH_LANE = "batch_lane"
    """It holds only rows of the batch lane."""


class Reject(enum.StrEnum):
    """Why an item was not queued."""

    QUEUE_FULL = "queue_full"
    TOO_MANY_ROWS = "too_many_rows"
    DUPLICATE = "duplicate"
    """The same ref is queued already: one answer serves both, so this item gets none."""
    DRAINING = "draining"
    """The worker is shutting down. The record stays in the log for another one."""


@dataclasses.dataclass(slots=True, eq=False)
class Item(Generic[T]):
    """One request in a scheduler's queue. Not changed once added.

    Attributes:
        ref: names it in `cancel`; unique among the queued.
        rows: batch elements, >= 1 (a request of a model that does not batch counts 1).
        shape_class: equal ones may share a batch: the shapes of all inputs that are not ragged and the set of optional inputs
            present (and the contents of shape tensors).
        payload: the request itself.
        enqueued: when intake took it; the delay's and the queue timeout's clock starts here.
        published: when it was handed to the bus; 0 for unknown.
        priority: 1 is the highest; 0, like any value without a level, means the model's default.
        deadline: from then on it is not put in a batch; None for no deadline. Not NaN.
        timeout: seconds it may wait in the queue, where the model lets requests set it; None or 0 for the model's default.
        nbytes: what it holds in memory, for the intake's limit.
    """

    ref: str
    rows: int
    shape_class: Hashable
    payload: T
    enqueued: float
    published: float = 0.0
    priority: int = 0
    deadline: float | None = None
    timeout: float | None = None
    nbytes: int = 0

    def late(self, now: float) -> bool:
        """Whether the deadline has passed; of an item from `expire`, false means that its queue timeout did."""
        return too_late(self.deadline, now)


@dataclasses.dataclass(slots=True, eq=False)
class Batch(Generic[T]):
    """Items that run together: one shape class, at most `max_batch_size` rows, at least one item.

    Attributes:
        sequence: 0, 1, 2, … in the order in which this scheduler formed its batches; `OF_LANE` if no scheduler did.
        formed: when. Items in a batch no longer expire here: check `Item.late` before a batch that waited runs.
        lane_rows: rows of the batch lane among them; of a part, those of its whole.
        lane_seconds: that a batch of only such rows should take.
    """

    items: list[Item[T]]
    rows: int
    reason: Release
    formed: float
    sequence: int
    lane_rows: int = 0
    lane_seconds: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Rejection:
    """The answer to an item that was not queued; `code` and `message` are for the caller, except after DUPLICATE and DRAINING."""

    reason: Reject
    code: Code
    message: str


class Scheduler(Protocol[T]):
    """Decides which requests run together, and when. A runner's turn is expire, take, and sleep until `wake_at` or an event."""

    def add(self, item: Item[T], now: float) -> Rejection | None:
        """Queue the item, or return why not; then it was not added."""

    def take(self, now: float, *, backlog_rows: int = 0, idle: bool = True) -> Batch[T] | None:
        """The next batch, if one should be released now; call again until None.

        Args:
            now: the time.
            backlog_rows: rows known to be in the log and not yet fetched. Fetch first, while the queue has room.
            idle: an instance is free. Otherwise the batch is staged behind a running one, and only a batch that waiting cannot
                improve is released.
        """

    def expire(self, now: float) -> list[Item[T]]:
        """Remove and return the items whose deadline or rejecting queue timeout has passed; `Item.late` says which."""

    def cancel(self, ref: str) -> Item[T] | None:
        """Remove a queued item; None if it is not queued (it was never here, or it runs)."""

    def wake_at(self, *, backlog_rows: int = 0, idle: bool = True) -> float | None:
        """When to call `expire` and `take` again if nothing else happens; None to wait for an event.

        Call it after `take` with the same arguments returned None.
        """

    def completed(self, batch: Batch[T], now: float) -> list[Batch[T]]:
        """The batch has run (or failed); returns the batches whose answers may go out now, in this order.

        Every batch must come back here once.
        """

    def drain(self) -> None:
        """Nothing more will be added: release what is queued without waiting, and refuse new items."""

    @property
    def depth(self) -> int:
        """Items queued."""

    @property
    def rows(self) -> int:
        """Rows queued."""

    @property
    def nbytes(self) -> int:
        """Bytes queued."""
