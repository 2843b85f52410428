"""A batch's path through an instance: start attempts, prepare, run, split, encode. Up to `DEPTH` batches per instance overlap.

Invariants: everything runs on the event loop except runs that are not inline and copies of more than `LARGE` bytes; a batch that
was started comes back through `BatchOwner.batch_answered` or, if it has no entries left, `BatchOwner.batch_emptied`; entries that
leave before it runs go through `BatchOwner.entry_left`; a batch that fails as a whole goes to `failures.Isolation`, which sends
parts of it through here again; an error of the worker itself fails the batch, so that its records are answered and its instance is
free.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import math
from collections.abc import Coroutine, Sequence
from typing import Any, Final, cast

import structlog

from protocol.errors import Code
from protocol.messages import Failure, InferRequest
from protocol.model_config import ModelConfig
from protocol.ports import Terminal
from protocol.runtime.tasks import BackgroundTasks
from protocol.tensors import MANY
from workers.backends.base import Outcome
from workers.batching.types import OF_LANE, Batch
from workers.context import Context
from workers.crash_journal import JournalSlot
from workers.failures.classify import attempts_exhausted
from workers.failures.hang_watch import HangWatch
from workers.failures.isolation import BatchOwner, Isolation, Part
from workers.failures.limits import into_parts
from workers.instances.executor import DEPTH, Completions, ThreadExecutor, next_free
from workers.instances.inline_policy import InlinePolicy
from workers.instances.job import Entry, Executor, Job
from workers.repository.completion import stated_limit
from workers.results.outcomes import BatchOutcomes, size_of, strings_given, strings_taken
from workers.results.replies import Replies
from workers.statistics import ModelStatistics

LARGE: Final = 1024 * 1024
"""Bytes of a batch's inputs or outputs above which another thread copies them, as it does with more than `MANY` strings."""

log = structlog.get_logger(__name__)


class Pipeline:
    """The instances of one model version and the batches in them.

    Args:
        context: the model version's.
        config: complete.
        executors: the loaded instances.
        statistics: counts what happens here.
        owner: of the batches; gets them back.
    """

    def __init__(
        self,
        context: Context,
        config: ModelConfig,
        executors: Sequence[Executor],
        statistics: ModelStatistics,
        owner: BatchOwner,
    ) -> None:
        self.executors: Sequence[Executor] = executors
        self._context = context
        self._clock = context.clock
        self._statistics = statistics
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._inline_policy = InlinePolicy()
        encoded, topic_ttl = context.results.immediate is None, context.topic_fence_ttl
        self._outcomes = BatchOutcomes(
            Replies(context.worker, context.fence_ttl, context.digest, encoded=encoded, topic_ttl=topic_ttl),
            statistics,
            self._inline_policy,
            context.clock,
            refuse_nan=config.parameters.get("refuse_nan", "").lower() == "true",
        )
        self._takes_strings = any(spec.datatype == "BYTES" for spec in config.inputs)
        self._gives_strings = any(spec.datatype == "BYTES" for spec in config.outputs)
        rows = max(1, config.max_batch_size)
        self._isolation = Isolation(statistics, owner, context.clock, self._launch, rows, context.max_attempts)
        self._hang_watch = HangWatch(statistics.latency, stated_limit(config.parameters, config.name), context.clock)
        self._rows = 0
        self._of_lane: collections.defaultdict[Executor, list[Batch[InferRequest]]] = collections.defaultdict(list)
        self._lane_was_last: set[Executor] = set()
        self._background = BackgroundTasks("pipeline", model=config.name)
        completions = Completions(self._loop, functools.partial(context.microtasks.call, self._finished))
        self._slots: list[JournalSlot] = []
        for executor in executors:
            executor.deliver_to(completions)
            if context.journal is not None and isinstance(executor, ThreadExecutor):
                executor.journal_slot = context.journal.open_slot()
                self._slots += [executor.journal_slot] if executor.journal_slot is not None else []

    @property
    def running_rows(self) -> int:
        """Rows in batches that were started and are not answered."""
        return self._rows + self._isolation.rows

    def free(self) -> Executor | None:
        """The instance that should take the next batch; None if no instance has room."""
        if not self._isolation:
            return next_free(self.executors)
        executors = [executor for executor in self.executors if not self._isolation.holds(executor)]
        return next_free(executors) if executors else None

    def lane_seconds(self, executor: Executor) -> float | None:
        """Seconds of the batch lane's batches that the instance holds; None if it holds another one, or has no room."""
        batches = self._of_lane[executor]
        if executor.held != len(batches) or executor.held >= DEPTH or self._isolation.holds(executor):
            return None
        return sum([batch.lane_seconds for batch in batches])

    def lane_was_last(self, executor: Executor) -> bool:
        """Whether the newest batch that the instance got is of the batch lane."""
        return executor in self._lane_was_last

    @property
    def short_of_memory(self) -> bool:
        """Whether some batches must stay below a size."""
        return bool(self._isolation.caps)

    def problem(self) -> str:
        """Why no requests should be sent here now; "" where there is no reason."""
        stuck = [job.executor.name for job in self._hang_watch.stuck]
        return f"instance {stuck[0]} hangs with a batch" if stuck else self._isolation.problem()

    def start(self, batch: Batch[InferRequest], executor: Executor) -> None:
        """Send the batch on its way; `executor` must hold fewer than `DEPTH`."""
        executor.held += 1
        if batch.sequence == OF_LANE:
            self._of_lane[executor].append(batch)
            self._lane_was_last.add(executor)
        elif self._lane_was_last:
            self._lane_was_last.discard(executor)
        self._rows += batch.rows
        self._statistics.released(batch.reason.value)
        job = Job(batch, cast("list[Entry]", batch.items), executor)
        alone = False
        for entry in job.entries:
            entry.job = job
            alone = alone or entry.run_alone
        if alone or self._isolation.caps:
            self._enter(job)
        else:
            self._begin(job)

    def abandon(self) -> None:
        """Stop abruptly, as a crash would: requests in flight are delivered again."""
        self._isolation.abandon()
        self._hang_watch.stop()
        while self._slots and self._context.journal is not None:
            self._context.journal.free_slot(self._slots.pop())
        self._background.cancel()

    # --- before it runs ----------------------------------------------------------------------------------------------

    def _begin(self, job: Job) -> None:
        for entry in job.entries:
            if entry.needs_attempt:
                self._background.spawn(self._guarded(self._begin_attempts(job), job))
                return
        self._prepare(job)

    async def _begin_attempts(self, job: Job) -> None:
        """Entries that may have been delivered before get an attempt number, or turn out to be answered."""
        context = self._context
        entries = [entry for entry in job.entries if entry.needs_attempt]
        refs = [entry.ref for entry in entries]
        attempts = await context.retry.call(
            "start", lambda: context.results.start(refs, context.runner, context.fence_ttl)
        )
        for entry, attempt in zip(entries, attempts, strict=True):
            entry.attempt = attempt
            entry.needs_attempt = False
            entry.attempt_stored = True
            if attempt > 1:
                self._statistics.redeliveries += 1
        self._remove(job, [(entry, None) for entry in job.entries if entry.attempt == 0])
        self._dead_letter_exhausted(job)
        self._recheck(job)

    def _dead_letter_exhausted(self, job: Job) -> None:
        """Entries that were begun too often do not run again where they may kill the whole worker."""
        limit = math.inf if job.executor.isolated else self._context.max_attempts
        gone = [entry for entry in job.entries if entry.attempt > limit]
        batch_ids = job.whole.batch_ids if isinstance(job, Part) else [entry.payload.id for entry in job.entries]
        self._take_out(job, gone)
        for entry in gone:
            self._owner.dead_letter(entry, *attempts_exhausted(entry, entry.attempt - 1, batch_ids))

    def _recheck(self, job: Job) -> None:
        """Time has passed since the batch was formed: late and cancelled entries leave it, the others continue."""
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
            self._enter(job)
            return
        self._release(job)
        if isinstance(job, Part):
            self._isolation.part_skipped(job)
        else:
            self._owner.batch_emptied(job)
            self._owner.instance_freed()

    def _remove(self, job: Job, leaving: Sequence[tuple[Entry, Failure | None]]) -> None:
        self._take_out(job, [entry for entry, _ in leaving])
        for entry, failure in leaving:
            self._owner.entry_left(entry, failure)

    def _take_out(self, job: Job, leaving: Sequence[Entry]) -> None:
        if leaving:
            gone = {id(entry) for entry in leaving}
            job.entries = [entry for entry in job.entries if id(entry) not in gone]
            rows = sum(entry.rows for entry in leaving)
            job.batch.rows -= rows
            self._rows -= rows

    def _launch(self, part: Part) -> None:
        """Send a part of an earlier batch on its way."""
        part.executor.held += 1
        self._rows += part.batch.rows
        try:
            self._recheck(part)
        except Exception as exc:
            self._on_defect(part, exc)

    def _enter(self, job: Job) -> None:
        """Run the batch as it is, or in parts where memory is short or some entries must run alone.

        On a thread, a bad request kills the whole worker. An entry that was begun in an earlier delivery runs alone there, and its
        next attempt begins right before its run: a request that waits behind a crasher must not be taken for one.
        """
        if not isinstance(job, Part):
            alone = [] if job.executor.isolated else [e for e in job.entries if e.run_alone or e.attempt > 1]
            cap = self._isolation.caps.cap(job.entries[0].shape_class, self._clock())
            parts = into_parts(job.entries, cap, alone)
            if len(parts) > 1:
                self._release(job)
                self._isolation.run_in_parts(job, parts)
                return
        self._begin(job)

    def _prepare(self, job: Job) -> None:
        job.not_after = min([entry.deadline for entry in job.entries if entry.deadline is not None], default=math.inf)
        if self._slots:  # entries whose attempt is in the store need no note
            job.note = "\n".join([entry.ref for entry in job.entries if not entry.attempt_stored]).encode()
        size = sum([entry.nbytes for entry in job.entries])
        if size > LARGE or (self._takes_strings and not job.executor.isolated and strings_taken(job.requests) > MANY):
            self._background.spawn(self._guarded(self._prepare_large(job), job))
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
            if not self._runs_inline(job):
                self._hang_watch.begin(job)
                job.executor.submit(job)
                return
            job.executor.run_here(job)
        self._context.microtasks.add(self._finished, [job])

    def _runs_inline(self, job: Job) -> bool:
        """Whether to run the batch on the event loop, which must cost less than handing it to the instance's thread."""
        executor = job.executor
        if not executor.loop_safe or executor.held > 1:
            return False
        return self._inline_policy.runs_inline(job.entries[0].shape_class, job.batch.rows, job.input_end)

    # --- after it ran ------------------------------------------------------------------------------------------------

    def _finished(self, jobs: list[Job]) -> None:
        ran = []
        for job in jobs:
            self._hang_watch.end(job)
            if job.stale:
                try:
                    self._recheck(job)
                except Exception as exc:
                    self._on_defect(job, exc)
                continue
            self._release(job)
            if job.error is None:
                ran.append(job)
            else:
                self._on_failure(job, job.error)
        idle = any(executor.held == 0 for executor in self.executors)
        if idle:
            self._owner.instance_freed()  # it can run while the answers below are made
        for job in ran:
            self._answer(job)
        if not idle:
            self._owner.instance_freed()

    def _release(self, job: Job) -> None:
        job.executor.held -= 1
        if job.batch.sequence == OF_LANE and job.batch in self._of_lane[job.executor]:
            self._of_lane[job.executor].remove(job.batch)  # a part's batch is another one
        self._rows -= job.batch.rows
        if self._isolation:
            self._isolation.advance(job.executor)

    def _on_failure(self, job: Job, error: BaseException) -> None:
        """The batch gave no answers: its requests run again, or fail with it."""
        rows = job.batch.rows
        answer = self._isolation.on_failure(job, error)
        if answer is not None:
            self._fail(job, answer)
        else:
            self._outcomes.count_run(job, rows)

    def _fail(self, job: Job, error: BaseException) -> None:
        self._emit(job, *self._outcomes.encode_job(job, self._outcomes.fail_job(job, error)))

    def _on_defect(self, job: Job, error: Exception) -> None:
        """The worker itself failed on a batch that its instance holds: its requests continue one by one, or fail."""
        log.error("the worker failed on a batch", instance=job.executor.name, exc_info=error)
        self._release(job)
        if isinstance(job, Part):
            job.whole.bisection.part_skipped()
        elif not job.entries:
            self._owner.batch_emptied(job)
        if isinstance(job, Part) or len(job.entries) == 1:
            self._fail(job, error)
        elif job.entries:
            self._isolation.run_in_parts(job, [(entry,) for entry in job.entries])
        self._owner.instance_freed()

    def _answer(self, job: Job) -> None:
        if self._gives_strings and not job.executor.isolated and strings_given(job.raw) > MANY:
            self._background.spawn(self._answer_strings(job))
            return
        try:
            outcomes = self._outcomes.split_job(job)
        except Exception as exc:
            self._on_failure(job, exc)
        else:
            self._on_success(job, outcomes)

    async def _answer_strings(self, job: Job) -> None:
        try:
            outcomes = await self._loop.run_in_executor(None, self._outcomes.split_job, job)
        except Exception as exc:
            self._on_failure(job, exc)
        else:
            self._on_success(job, outcomes)

    def _on_success(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        self._isolation.on_success(job)
        if size_of(outcomes) > LARGE:
            self._background.spawn(self._answer_large(job, outcomes))
        else:
            self._emit(job, *self._outcomes.encode_job(job, outcomes))

    async def _answer_large(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        try:
            made = await self._loop.run_in_executor(None, self._outcomes.encode_job, job, outcomes)
        except Exception as exc:
            self._fail(job, exc)
        else:
            self._emit(job, *made)

    def _emit(self, job: Job, outcomes: Sequence[Outcome], answers: list[Terminal]) -> None:
        try:
            self._outcomes.count_job(job, outcomes, answers)
        except Exception as exc:  # the answers go out even uncounted
            log.error("a batch was not counted", instance=job.executor.name, exc_info=exc)
        job.raw = None
        if isinstance(job, Part):
            self._isolation.part_answered(job, answers)
        else:
            self._owner.batch_answered(job, answers)

    async def _guarded(self, step: Coroutine[Any, Any, None], job: Job) -> None:
        try:
            await step
        except Exception as exc:
            self._on_defect(job, exc)
