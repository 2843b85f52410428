"""Bugs in a request's path through a live worker."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import Any

from protocol.errors import Unavailable
from protocol.ports import FinishOutcome
from tests.simulation.planting import bug
from workers.batching.dynamic import DynamicBatcher
from workers.batching.types import Item
from workers.instances.executor import ThreadExecutor
from workers.intake.cancellations import Cancellations
from workers.intake.commits import Commits
from workers.intake.consumer import Intake
from workers.intake.dead_letter_topic import DeadLetterTopic
from workers.intake.dead_letters import DeadLetterQueue
from workers.intake.offsets import OffsetTracker
from workers.results.writer import ResultWriter
from workers.retry import Retry
from workers.serving.pipeline import Pipeline
from workers.serving.runner import Runner


@bug("committed before the answer is written", Intake, "_queue")
def _(right: Any) -> Any:
    def queue(self: Any, entries: Any) -> None:
        self._commits.done(entries)
        right(self, entries)

    return queue


@bug("committed up to the highest that is done", OffsetTracker, "done")
def _(right: Any) -> Any:
    def done(self: Any, partition: Any, offset: int, token: int) -> None:
        table = self._tables.get(partition)
        if table is not None and table.token == token:
            for lower in [other for other in table.open if other < offset]:
                right(self, partition, lower, token)
        right(self, partition, offset, token)

    return done


@bug("acknowledgements of an old epoch count", OffsetTracker, "assign", 11)
def _(right: Any) -> Any:
    def assign(self: Any, partition: Any, epoch: int, committed: int) -> Any:
        table = self._tables.get(partition)
        if table is None:
            return right(self, partition, epoch, committed)
        table.epoch, table.owned, table.committed = epoch, True, committed
        self._moved.add(partition)
        return tuple(table.open)

    return assign


@bug("fetching continues where the last member stopped, not where it committed", OffsetTracker, "assign")
def _(right: Any) -> Any:
    def assign(self: Any, partition: Any, epoch: int, committed: int) -> Any:
        kept = right(self, partition, epoch, committed)
        table = self._tables[partition]
        if epoch > 1:
            table.end += 1
            self._moved.add(partition)
        return kept

    return assign


@bug("a full store counts as having written", Retry, "call", 1)
def _(right: Any) -> Any:
    async def call(self: Any, what: str, make: Any) -> Any:
        if what != "finish":
            return await right(self, what, make)
        try:
            return await make()
        except Unavailable:
            return [FinishOutcome.WRITTEN] * 512

    return call


@bug("an answer that could not be written is forgotten", ResultWriter, "_send", 1)
def _(right: Any) -> Any:
    async def send(self: Any, answers: Any, entries: Any) -> None:
        try:
            await self._context.results.finish(answers)
        except Unavailable:
            self.pending -= len(answers)
            return
        await right(self, answers, entries)

    return send


@bug("answers are swapped within a batch", ResultWriter, "put")
def _(right: Any) -> Any:
    def put(self: Any, answers: Any, entries: Any) -> None:
        if len(answers) > 1:
            one, other = answers[0], answers[1]
            answers = [
                dataclasses.replace(one, payload=other.payload),
                dataclasses.replace(other, payload=one.payload),
                *answers[2:],
            ]
        right(self, answers, entries)

    return put


@bug("the deadline is not checked", Item, "late", 7)
def _(right: Any) -> Any:
    return lambda self, now: False


@bug("an instance runs late requests", ThreadExecutor, "_run", 9)
def _(right: Any) -> Any:
    def run(self: Any, job: Any) -> None:
        job.not_after, job.withdrawn = float("inf"), False
        right(self, job)

    return run


@bug("a cancellation of a waiting request is ignored", Runner, "cancel", 13)
def _(right: Any) -> Any:
    return lambda self, cancel: None


@bug("a cancellation that arrives before its request is forgotten", Cancellations, "covers", 35)
def _(right: Any) -> Any:
    return lambda self, ref, accepted: False


@bug("a cancellation covers later runs too", Intake, "_on_cancel", 2)
def _(right: Any) -> Any:
    return lambda self, cancels: right(self, [dataclasses.replace(cancel, until=math.inf) for cancel in cancels])


@bug("a repetition that waited for the first is dropped", Runner, "_drop", 10)
def _(right: Any) -> Any:
    def drop(self: Any, entry: Any) -> None:
        entry.followers = None
        right(self, entry)

    return drop


@bug("every request known to the store counts as answered", Intake, "_skip_answered", 1)
def _(right: Any) -> Any:
    async def skip(self: Any, entries: Any) -> Any:
        states = await self._context.retry.call(
            "look", lambda: self._context.results.look([entry.ref for entry in entries])
        )
        self.settled([entry for entry, state in zip(entries, states, strict=True) if state is not None])
        return [entry for entry, state in zip(entries, states, strict=True) if state is None]

    return skip


@bug("waiting requests of a lost partition stay, and their offsets with them", Intake, "revoked", 3)
def _(right: Any) -> Any:
    return lambda self, partitions: None


@bug("a refused commit counts as done and is never repeated", Commits, "flush", 64)
def _(right: Any) -> Any:
    async def flush(self: Any) -> None:
        positions = self._tracker.commits()
        self._tracker.committed(positions)
        with contextlib.suppress(Unavailable):
            if positions and self.consumer is not None:
                await self.consumer.commit(positions)

    return flush


@bug("undecodable records are dropped and not dead-lettered", DeadLetterTopic, "publish", 1)
def _(right: Any) -> Any:
    async def publish(self: Any, *arguments: Any, **options: Any) -> None:
        return None

    return publish


@bug("a record that cannot be read stops its partition", DeadLetterQueue, "undecodable")
def _(right: Any) -> Any:
    return lambda self, records, fetched: None


@bug("a full worker no longer wakes up", Runner, "room", 1)
def _(right: Any) -> Any:
    def room(self: Any) -> int:
        if self._context.retry.failures:
            return 0
        return right(self)  # type: ignore[no-any-return]

    return room


@bug("a batch that fails takes its innocent requests with it", Pipeline, "_on_failure", 3)
def _(right: Any) -> Any:
    def on_failure(self: Any, job: Any, error: BaseException) -> None:
        self._emit(job, *self._outcomes.encode_job(job, self._outcomes.fail_job(job, error)))

    return on_failure


@bug("the batcher forgets one of two that arrived together", DynamicBatcher, "add")
def _(right: Any) -> Any:
    def add(self: Any, item: Any, now: float) -> Any:
        if item.enqueued and self.depth == 3:
            return None
        return right(self, item, now)

    return add
