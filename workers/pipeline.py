"""A batch's way through an instance: begin attempts, prepare, run, split, encode. Up to `DEPTH` batches per instance overlap.

Invariants: all of it happens on the event loop except running what is not brief, and copying more than `LARGE` bytes; a batch that
was started comes back through `Owner.answered` or, if none of its entries is left to run, `Owner.emptied`; entries that leave it
before it runs go through `Owner.left`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Sequence
from typing import Any, Final, Protocol, cast

import structlog

from protocol.errors import Code, FleetError, ModelFailed
from protocol.messages import Failure, InferRequest
from protocol.ports import Answer
from workers.answers import Answers
from workers.backends.base import Outcome
from workers.brevity import Brevity
from workers.context import Context
from workers.entries import Entry
from workers.execution import Completions, Executor, Job, failure_message
from workers.scheduling.types import Batch
from workers.statistics import Executed, ModelStatistics

LARGE: Final = 1024 * 1024
"""Bytes of a batch's inputs or outputs above which copying them is left to another thread."""

log = structlog.get_logger(__name__)


class Owner(Protocol):
    """Whose batches these are."""

    def left(self, entry: Entry, failure: Failure | None) -> None:
        """The entry will not run: it is late or cancelled (`failure`), or has its answer already (None)."""

    def answered(self, job: Job, answers: list[Answer]) -> None:
        """The batch has run, or failed: one answer per entry of the job."""

    def emptied(self, job: Job) -> None:
        """Nothing of the batch is left to run."""

    def freed(self) -> None:
        """An instance can take another batch."""


class Pipeline:
    """The instances of one model version and the batches in them.

    Attributes:
        running_rows: in batches that were started and are not answered.
    """

    def __init__(
        self, context: Context, executors: Sequence[Executor], statistics: ModelStatistics, owner: Owner
    ) -> None:
        self.running_rows = 0
        self.executors: Sequence[Executor] = executors
        self._context = context
        self._clock = context.clock
        self._statistics = statistics
        self._owner = owner
        self._answers = Answers(context.worker, context.fence_ttl)
        self._loop = asyncio.get_running_loop()
        self._brevity = Brevity()
        self._tasks: set[asyncio.Task[None]] = set()
        completions = Completions(self._loop, self._finished)
        for executor in executors:
            executor.deliver_to(completions)

    def start(self, batch: Batch[InferRequest], executor: Executor) -> None:
        """Send the batch on its way; `executor` must hold fewer than `DEPTH`."""
        executor.held += 1
        self.running_rows += batch.rows
        self._statistics.releases[batch.reason.value] += 1
        job = Job(batch, cast("list[Entry]", batch.items), executor)
        suspect = False
        for entry in job.entries:
            entry.job = job
            suspect = suspect or entry.suspect
        if suspect:
            self._spawn(self._begin_attempts(job))
        else:
            self._prepare(job)

    def abandon(self) -> None:
        """Stop in the middle, as a crash would: what is in flight is delivered again."""
        for task in self._tasks:
            task.cancel()

    # --- before it runs ----------------------------------------------------------------------------------------------

    async def _begin_attempts(self, job: Job) -> None:
        """What may have been delivered before gets an attempt number, or turns out to be answered."""
        context = self._context
        suspects = [entry for entry in job.entries if entry.suspect]
        refs = [entry.ref for entry in suspects]
        attempts = await context.patience.call(
            "start", lambda: context.results.start(refs, context.worker, context.fence_ttl)
        )
        for entry, attempt in zip(suspects, attempts, strict=True):
            entry.attempt = attempt
            entry.suspect = False
            if attempt > 1:
                self._statistics.redeliveries += 1
        self._remove(job, [(entry, None) for entry in job.entries if entry.attempt == 0])
        self._again(job)

    def _again(self, job: Job) -> None:
        """Time has passed since the batch was formed: what is late or cancelled leaves it, the rest goes on."""
        now = self._clock()
        leaving: list[tuple[Entry, Failure | None]] = []
        for entry in job.entries:
            if entry.cancelled:
                leaving.append((entry, Failure(Code.CANCELLED, "the request was cancelled before its batch ran")))
            elif entry.late(now):
                leaving.append((entry, Failure(Code.DEADLINE_EXCEEDED, "the deadline passed before the batch ran")))
        self._remove(job, leaving)
        if job.entries:
            job.withdrawn = job.stale = False
            self._prepare(job)
        else:
            self._release(job)
            self._owner.emptied(job)
            self._owner.freed()

    def _remove(self, job: Job, leaving: Sequence[tuple[Entry, Failure | None]]) -> None:
        if not leaving:
            return
        gone = {id(entry) for entry, _ in leaving}
        job.entries = [entry for entry in job.entries if id(entry) not in gone]
        rows = sum(entry.rows for entry, _ in leaving)
        job.batch.rows -= rows
        self.running_rows -= rows
        for entry, failure in leaving:
            self._owner.left(entry, failure)

    def _prepare(self, job: Job) -> None:
        job.not_after = min([entry.deadline for entry in job.entries if entry.deadline is not None], default=math.inf)
        size = sum([entry.nbytes for entry in job.entries])
        if size > LARGE:
            self._spawn(self._prepare_large(job))
        else:
            self._stack(job)
            self._submit(job)

    async def _prepare_large(self, job: Job) -> None:
        await self._loop.run_in_executor(None, self._stack, job)
        self._submit(job)

    def _stack(self, job: Job) -> None:
        job.input_start = self._clock()
        try:
            job.prepared = job.executor.prepare(job.requests)
        except Exception as exc:
            job.error = exc
        job.input_end = self._clock()

    def _submit(self, job: Job) -> None:
        if job.error is None:
            if not self._is_brief(job):
                job.executor.submit(job)
                return
            job.executor.run_here(job)
        self._loop.call_soon(self._finished, [job])

    def _is_brief(self, job: Job) -> bool:
        """Whether running the batch right here costs less than handing it over would."""
        executor = job.executor
        if not executor.anywhere or executor.held > 1:
            return False
        return self._brevity.expected(job.entries[0].shape_class, job.batch.rows, job.input_end)

    # --- after it ran ------------------------------------------------------------------------------------------------

    def _finished(self, jobs: list[Job]) -> None:
        ran = []
        for job in jobs:
            if job.stale:
                self._again(job)
            else:
                self._release(job)
                ran.append(job)
        idle = any(executor.held == 0 for executor in self.executors)
        if idle:
            self._owner.freed()  # it can run while the answers below are made
        for job in ran:
            self._answer(job)
        if not idle:
            self._owner.freed()

    def _release(self, job: Job) -> None:
        job.executor.held -= 1
        self.running_rows -= job.batch.rows

    def _answer(self, job: Job) -> None:
        outcomes = self._outcomes(job)
        size = sum([len(t.data) for outcome in outcomes if not isinstance(outcome, Failure) for t in outcome])
        if size > LARGE:
            self._spawn(self._answer_large(job, outcomes))
        else:
            self._emit(job, *self._encode(job, outcomes))

    async def _answer_large(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        self._emit(job, *await self._loop.run_in_executor(None, self._encode, job, outcomes))

    def _encode(self, job: Job, outcomes: Sequence[Outcome]) -> tuple[Sequence[Outcome], list[Answer]]:
        """The outcomes and their answers; if they cannot be encoded, failures for all."""
        try:
            return outcomes, self._answers.of_batch(job, outcomes, self._clock())
        except Exception as exc:
            outcomes = self._failures(job, exc)
            return outcomes, self._answers.of_batch(job, outcomes, self._clock())

    def _emit(self, job: Job, outcomes: Sequence[Outcome], answers: list[Answer]) -> None:
        self._count(job, outcomes)
        job.raw = None
        self._owner.answered(job, answers)

    def _outcomes(self, job: Job) -> Sequence[Outcome]:
        """One per entry: what the instance made of it, or the batch's failure for all."""
        if job.error is not None:
            return self._failures(job, job.error)
        try:
            outcomes: Sequence[Outcome] = job.executor.split(job.requests, job.raw)
        except Exception as exc:
            return self._failures(job, exc)
        if len(outcomes) != len(job.entries):
            return self._failures(job, ModelFailed(f"it gave {len(outcomes)} answers to {len(job.entries)} requests"))
        return outcomes

    def _failures(self, job: Job, error: BaseException) -> Sequence[Outcome]:
        message = failure_message(job.executor.name, error)
        first = job.entries[0].payload
        log.warning(
            "batch failed", model=first.model, version=first.version, requests=len(job.entries), request=first.id,
            traceparent=first.traceparent, error=message, exc_info=None if isinstance(error, FleetError) else error,
        )  # fmt: skip
        code = error.code if isinstance(error, FleetError) else Code.MODEL_FAILED
        return [Failure(code, message)] * len(job.entries)

    def _count(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        end = self._clock()
        enqueued, rows, failed, failed_seconds = [], 0, 0, 0.0
        for entry, outcome in zip(job.entries, outcomes, strict=True):
            if isinstance(outcome, Failure):
                failed += 1
                failed_seconds += end - entry.enqueued
            else:
                enqueued.append(entry.enqueued)
                rows += entry.rows
        executed = Executed(
            job.batch.rows, enqueued, rows, failed, failed_seconds, job.input_end - job.input_start, job.compute_start,
            job.compute_end, end,
        )  # fmt: skip
        self._statistics.executed(executed)
        if job.compute_start and job.error is None:
            shape_class, seconds = job.entries[0].shape_class, executed.compute_infer
            self._statistics.pace.observe(shape_class, job.batch.rows, seconds)
            if job.executor.anywhere:
                self._brevity.ran(shape_class, job.batch.rows, seconds, job.cpu, end)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a batch was lost to an error in the worker; its records stay in the log", exc_info=error)
