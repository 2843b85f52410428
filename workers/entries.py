"""One record between intake and its answer."""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING

from protocol.messages import Failure, InferRequest
from protocol.ports import Record
from workers.scheduling.types import Item

if TYPE_CHECKING:
    from workers.execution import Job


@dataclasses.dataclass(slots=True, eq=False)
class Entry(Item[InferRequest]):
    """A scheduler's item that knows which record it came from.

    Attributes:
        partition, offset: where the record is.
        token: of the assignment under which it was taken in; see `offsets.OffsetTracker`.
        fetched: when the consumer handed it over.
        suspect: it was claimed by a gateway or may have been delivered before: an attempt is begun before it runs.
        problem: why the model cannot take it; it is answered with that.
        attempt: 1 for the first delivery.
        cancelled: the caller no longer wants it; it is not run if it has not started.
        job: the batch it is in, once it is in one.
        followers: later records of the same request, which wait for this one's end.
        heirs: how many of the followers, from the first, were here before an attempt of this entry began.
        record: as it was fetched, for the dead letters.
        alone: an attempt was begun in an earlier delivery, so it may be what ended that worker.
        begun: the store knows of this attempt.
    """

    partition: int = 0
    offset: int = 0
    token: int = 0
    fetched: float = 0.0
    suspect: bool = False
    problem: Failure | None = None
    attempt: int = 1
    cancelled: bool = False
    job: Job | None = None
    followers: collections.deque[Entry] | None = None
    heirs: int = 0
    record: Record | None = None
    alone: bool = False
    begun: bool = False
