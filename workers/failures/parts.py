"""A batch whose requests run in parts, a part of it, and whom both belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

from protocol.dead_letter import DeadLetter
from protocol.messages import Failure, InferRequest
from protocol.ports import Answer
from workers.batching.types import Batch, Item
from workers.failures.bisection import Inquiry
from workers.instances.job import Entry, Job


class Owner(Protocol):
    """Whose batches these are."""

    ordered: bool
    """Answers leave in the order of their batches."""

    def left(self, entry: Entry, failure: Failure | None) -> None:
        """The entry will not run: it is late or cancelled (`failure`), or has its answer already (None)."""

    def partly(self, entries: Sequence[Entry], answers: list[Answer]) -> None:
        """Some of a batch have their answers."""

    def bury(self, entry: Entry, letter: DeadLetter, failure: Failure) -> None:
        """The entry goes to the dead letters, and `failure` to its sender."""

    def answered(self, job: Job, answers: list[Answer]) -> None:
        """The batch has its end: one answer per entry that is still in the job."""

    def emptied(self, job: Job) -> None:
        """The batch has its end, and no entry is left in it."""

    def freed(self) -> None:
        """An instance can take another batch."""


class Inquest:
    """One batch whose requests run in parts.

    Attributes:
        job: the batch.
        inquiry: knows what to run next.
        part: what runs now.
        kept: answers that wait for the whole batch.
        mates: the ids of its requests.
    """

    __slots__ = ("inquiry", "job", "kept", "mates", "part")

    def __init__(self, job: Job, inquiry: Inquiry[Entry]) -> None:
        self.job = job
        self.inquiry = inquiry
        self.part: Part | None = None
        self.kept: list[tuple[Entry, Answer]] = []
        self.mates = [entry.payload.id for entry in job.entries]


class Part(Job):
    """Some of a batch's requests on their way through its instance."""

    __slots__ = ("inquest",)

    def __init__(self, inquest: Inquest, entries: Sequence[Entry]) -> None:
        whole = inquest.job.batch
        rows = sum([entry.rows for entry in entries])
        items = cast("list[Item[InferRequest]]", list(entries))
        batch = Batch(items, rows, whole.reason, whole.formed, whole.sequence)
        super().__init__(batch, list(entries), inquest.job.executor)
        self.inquest = inquest
        for entry in entries:
            entry.job = self
