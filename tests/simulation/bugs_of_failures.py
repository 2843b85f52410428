"""Bugs in the handling of requests whose instance or worker dies or hangs, and of deleted records."""

from __future__ import annotations

from typing import Any

from protocol.model_stats import FailureReason
from protocol.ports import OutRecord
from tests.simulation.planting import bug
from workers.failures.bisection import Bisection, Culprit, _Part
from workers.failures.hang_watch import HangWatch
from workers.failures.isolation import Isolation
from workers.instances.job import InstanceDied
from workers.intake.dead_letter_topic import DeadLetterTopic
from workers.intake.dead_letters import DeadLetterQueue
from workers.intake.offsets import OffsetTracker
from workers.serving.pipeline import Pipeline


@bug("a request that killed its instance is answered and not dead-lettered", DeadLetterQueue, "dead_letter", 3)
def _(right: Any) -> Any:
    return lambda self, entry, letter, failure: self._refuse(entry, failure, FailureReason.BACKEND)


@bug("a letter lacks the headers of its record", DeadLetterTopic, "_record")
def _(right: Any) -> Any:
    def record(self: Any, letter: Any) -> OutRecord:
        made = right(self, letter)
        return OutRecord(made.value, list(made.headers)[len(letter.record.headers) :], made.key)

    return record


@bug("the first of a batch is blamed for the death of its instance", Bisection, "_blame", 3)
def _(right: Any) -> Any:
    def judge(self: Any, items: Any, cause: Any) -> Any:
        if cause.deadly and len(items) > 1:
            self._parts.append(_Part(tuple(items[1:])))
            return [Culprit(items[0], cause, 1, dead_letter=True)]
        return right(self, items, cause)

    return judge


@bug("a death takes the whole batch with it", Isolation, "on_failure", 3)
def _(right: Any) -> Any:
    def failed(self: Any, job: Any, error: BaseException) -> Any:
        whole = isinstance(error, InstanceDied) and not hasattr(job, "whole")
        return error if whole else right(self, job, error)

    return failed


@bug("one death makes a dead letter", Bisection, "deaths_of", 35)
def _(right: Any) -> Any:
    return lambda self, item: right(self, item) + 2


@bug("a hung batch is never killed", HangWatch, "check", 3)
def _(right: Any) -> Any:
    return lambda self, now: None


@bug("a request started too often runs again", Pipeline, "_dead_letter_exhausted", 6)
def _(right: Any) -> Any:
    return lambda self, job: None


@bug("records deleted unread are not reported", DeadLetterTopic, "note_loss", 64)
def _(right: Any) -> Any:
    async def note_loss(self: Any, *arguments: Any) -> None:
        return None

    return note_loss


@bug("a recreated topic is mistaken for the earlier one", OffsetTracker, "assign", 11)
def _(right: Any) -> Any:
    def assign(self: Any, partition: Any, epoch: int, committed: int) -> Any:
        table = self._tables.get(partition)
        if table is not None:
            table.epoch = epoch - 1
        return right(self, partition, epoch, committed)

    return assign
