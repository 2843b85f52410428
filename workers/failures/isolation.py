"""Runs a failed batch again in parts, as `Bisection` decides: one part at a time, on the instance that it failed on.

Invariants: an instance with an isolated batch takes no new ones, so that no other request is in a run that dies; answers leave as
soon as their part has run, except where the model keeps the order of its answers; each batch comes back once, through
`BatchOwner.batch_answered` or `BatchOwner.batch_emptied`, after all its entries have left it; deadlines and cancellations are
checked before each part.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol, cast

import structlog

from protocol.dead_letter import DeadLetter
from protocol.errors import ModelFailed, described
from protocol.messages import Failure, InferRequest
from protocol.ports import Terminal
from protocol.runtime.repeats import Flood
from workers.batching.types import Batch, Item
from workers.failures.bisection import Bisection, Cause
from workers.failures.classify import cause_of, poison_failure, poison_letter
from workers.failures.limits import MAX_DEATHS_SHARE, MAX_FAILURES_SHARE, Caps, CircuitBreaker
from workers.instances.executor import DEPTH
from workers.instances.job import Entry, Executor, InstanceDied, Job
from workers.statistics import ModelStatistics

RESTART: Final = 0.3
"""Seconds that a restart of an instance is assumed to take until one was measured."""
RUN: Final = 0.005
"""Seconds that a part is assumed to run until one was measured."""
OVERHEAD: Final = 0.001
"""Seconds that a part costs besides running."""

log = structlog.get_logger(__name__)


class BatchOwner(Protocol):
    """The owner of the batches: `serving.Runner`."""

    ordered: bool
    """Answers leave in the order of their batches."""

    def entry_left(self, entry: Entry, failure: Failure | None) -> None:
        """The entry will not run: it is late or cancelled (`failure`), or has its answer already (None)."""

    def entries_answered(self, entries: Sequence[Entry], answers: list[Terminal]) -> None:
        """These entries of a batch have their answers."""

    def dead_letter(self, entry: Entry, letter: DeadLetter, failure: Failure) -> None:
        """The entry goes to the dead letters, and `failure` to its sender."""

    def batch_answered(self, job: Job, answers: list[Terminal]) -> None:
        """The batch is done: one answer per entry that is still in the job."""

    def batch_emptied(self, job: Job) -> None:
        """The batch is done, and no entry is left in it."""

    def instance_freed(self) -> None:
        """An instance can take another batch."""


class IsolatedBatch:
    """One batch whose requests run in parts.

    Attributes:
        job: the batch.
        bisection: knows what to run next.
        part: what runs now.
        kept: answers that wait for the whole batch.
        batch_ids: the ids of its requests.
    """

    __slots__ = ("batch_ids", "bisection", "job", "kept", "part")

    def __init__(self, job: Job, bisection: Bisection[Entry]) -> None:
        self.job = job
        self.bisection = bisection
        self.part: Part | None = None
        self.kept: list[tuple[Entry, Terminal]] = []
        self.batch_ids = [entry.payload.id for entry in job.entries]


class Part(Job):
    """Some of a batch's requests on their way through its instance."""

    __slots__ = ("whole",)

    def __init__(self, whole: IsolatedBatch, entries: Sequence[Entry]) -> None:
        batch = whole.job.batch
        rows = sum([entry.rows for entry in entries])
        items = cast("list[Item[InferRequest]]", list(entries))
        super().__init__(
            Batch(items, rows, batch.reason, batch.formed, batch.sequence, batch.lane_rows),
            list(entries),
            whole.job.executor,
        )
        self.whole = whole
        for entry in entries:
            entry.job = self


class Isolation:
    """The isolated batches of one model version, one at a time per instance.

    Args:
        statistics: predicts how long a part runs; counts what happens here.
        owner: of the batches.
        clock: the fleet's.
        launch: sends a part on its way; the executor has room.
        max_rows: of a batch.
        attempts: see `bisection.MAX_ATTEMPTS`.

    Attributes:
        rows: of entries here that wait for a part.
        caps: what memory is known to be enough for.
    """

    def __init__(
        self,
        statistics: ModelStatistics,
        owner: BatchOwner,
        clock: Callable[[], float],
        launch: Callable[[Part], None],
        max_rows: int,
        attempts: int,
    ) -> None:
        self.rows = 0
        self.caps = Caps(max_rows)
        self._attempts = attempts
        self._statistics = statistics
        self._owner = owner
        self._clock = clock
        self._launch = launch
        self._deaths = CircuitBreaker(MAX_DEATHS_SHARE)
        self._failures = CircuitBreaker(MAX_FAILURES_SHARE)
        self._flood = Flood()
        self._waiting: dict[Executor, collections.deque[IsolatedBatch]] = {}
        self._restart = RESTART
        self._died: dict[Executor, float] = {}
        self._abandoned = False
        self._loop = asyncio.get_running_loop()

    # --- state -------------------------------------------------------------------------------------------------------

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def holds(self, executor: Executor) -> bool:
        """Whether the executor has an isolated batch."""
        return executor in self._waiting

    def problem(self) -> str:
        """Why no requests should be sent here now; "" where there is no reason."""
        if self._deaths.is_open(self._clock()):
            return "its instances die on nearly every request; the model is at fault, and no request is dead-lettered"
        return ""

    # --- events ------------------------------------------------------------------------------------------------------

    def run_in_parts(self, job: Job, parts: Sequence[Sequence[Entry]]) -> None:
        """Run the batch in these parts from the start; it holds no place in its executor."""
        self._begin(IsolatedBatch(job, Bisection(parts, self._attempts)))

    def on_failure(self, job: Job, error: BaseException) -> BaseException | None:
        """A batch, or a part of one, gave no answers.

        Returns:
            The error to answer the job's entries with; None where they run again or became dead letters.
        """
        now, cause = self._clock(), cause_of(error)
        if cause is Cause.MEMORY and len(job.entries) > 1:
            cap = self.caps.exceeded(job.entries[0].shape_class, job.batch.rows, now)
            log.warning(
                "out of memory; smaller batches follow", instance=job.executor.name, rows=cap, of=job.batch.rows
            )
        model_at_fault = self._breaker(cause).is_open(now)
        if cause.deadly:
            self._statistics.deaths += 1
            self._died[job.executor] = now
        if isinstance(job, Part):
            return self._part_failed(job, error, cause, model_at_fault=model_at_fault)
        if model_at_fault and cause is not Cause.MEMORY:
            return _model_at_fault(error) if cause.deadly else error
        whole = IsolatedBatch(job, Bisection((), self._attempts))
        if not self._handle_failure(whole, job, error, cause):
            return error
        self._begin(whole)
        return None

    def on_success(self, job: Job) -> None:
        """A batch, or a part of one, has answers."""
        now, innocent = self._clock(), len(job.entries)
        self._deaths.record(now, 0, innocent)
        self._failures.record(now, 0, innocent)
        if isinstance(job, Part):
            job.whole.bisection.part_succeeded()
            self._measure_restart(job)

    def part_answered(self, part: Part, answers: list[Terminal]) -> None:
        """The part's entries have their answers, of success or failure."""
        whole = part.whole
        if self._owner.ordered:
            whole.kept += zip(part.entries, answers, strict=True)
        else:
            self._owner.entries_answered(part.entries, answers)
        self._part_done(part)

    def part_skipped(self, part: Part) -> None:
        """Nothing of the part was left to run."""
        part.whole.bisection.part_skipped()
        self._part_done(part)

    def advance(self, executor: Executor) -> None:
        """The executor may have room: continue its first isolated batch."""
        waiting = self._waiting.get(executor)
        while waiting and not self._abandoned:
            whole = waiting[0]
            if whole.part is not None:
                return
            if not whole.bisection.has_next:
                waiting.popleft()
                self._close(whole)
                if not waiting:
                    del self._waiting[executor]
                    self._owner.instance_freed()
                continue
            if executor.held >= DEPTH:
                return
            entries = whole.bisection.next_part()
            assert entries is not None
            whole.part = Part(whole, entries)
            self.rows -= whole.part.batch.rows
            self._statistics.reruns += 1
            self._launch(whole.part)

    def abandon(self) -> None:
        """Run nothing more."""
        self._abandoned = True

    # --- details -----------------------------------------------------------------------------------------------------

    def _breaker(self, cause: Cause) -> CircuitBreaker:
        return self._deaths if cause.deadly else self._failures

    def _begin(self, whole: IsolatedBatch) -> None:
        job = whole.job
        # An entry that became a dead letter at once has left both the job and the bisection.
        self.rows += sum([entry.rows for entry in job.entries])
        self._waiting.setdefault(job.executor, collections.deque()).append(whole)
        self._loop.call_soon(self.advance, job.executor)

    def _part_failed(
        self, part: Part, error: BaseException, cause: Cause, *, model_at_fault: bool
    ) -> BaseException | None:
        self._measure_restart(part)
        whole = part.whole
        if cause.deadly and model_at_fault:
            log.error(
                "the model's instances die on nearly every request; no request is dead-lettered",
                instance=part.executor.name,
            )
            left = whole.bisection.give_up()
            self.rows -= sum([entry.rows for entry in left])
            part.entries += left
            part.batch.rows = sum([entry.rows for entry in part.entries])
            return _model_at_fault(error)
        if not self._handle_failure(whole, part, error, cause):
            return error
        self.rows += part.batch.rows
        self._part_done(part)
        return None

    def _handle_failure(self, whole: IsolatedBatch, job: Job, error: BaseException, cause: Cause) -> bool:
        """Let the bisection decide; whether the job's entries run again or became dead letters."""
        culprits = whole.bisection.run_failed(job.entries, cause, self._cost(job))
        if cause is not Cause.MEMORY:
            self._breaker(cause).record(self._clock(), len(culprits), 0)
        if not culprits:
            self._log_rerun(job, error, cause)
            return True
        if not culprits[0].dead_letter:
            return False
        (culprit,) = culprits
        letter = poison_letter(culprit, error, whole.batch_ids)
        self._owner.dead_letter(culprit.item, letter, poison_failure(culprit, error))
        job.entries = []
        job.batch.rows = 0
        return True

    def _log_rerun(self, job: Job, error: BaseException, cause: Cause) -> None:
        """Not what the executor has logged as an error: that an instance died."""
        held = self._flood.held((cause, type(error).__name__), self._clock())
        if held is not None:
            died = isinstance(error, InstanceDied)
            log.log(
                logging.INFO if died else logging.WARNING,
                "a batch failed; its requests run again in parts", instance=job.executor.name, requests=len(job.entries),
                cause=cause.value, request=job.entries[0].payload.id, **({} if died else {"error": described(error)}),
                **({"not_logged": held} if held else {}),
            )  # fmt: skip

    def _cost(self, job: Job) -> float:
        """The cost of another failure like this one, in successful runs."""
        if not isinstance(job.error, BaseException) or not cause_of(job.error).deadly:
            return 1.0
        predicted = self._statistics.latency.predict(job.entries[0].shape_class, job.entries[0].rows)
        spent = max(0.0, job.compute_end - job.compute_start) if job.compute_start else 0.0
        return (self._restart + spent) / (OVERHEAD + (RUN if predicted is None else predicted))

    def _measure_restart(self, part: Part) -> None:
        died = self._died.get(part.executor)
        if died is not None and part.compute_start > died:
            self._restart += 0.5 * (part.compute_start - died - self._restart)
            del self._died[part.executor]

    def _part_done(self, part: Part) -> None:
        part.whole.part = None
        self._loop.call_soon(self.advance, part.executor)

    def _close(self, whole: IsolatedBatch) -> None:
        job = whole.job
        if not whole.kept:
            job.entries = []
            self._owner.batch_emptied(job)
            return
        place = {id(item): index for index, item in enumerate(job.batch.items)}
        whole.kept.sort(key=lambda pair: place[id(pair[0])])
        job.entries = [entry for entry, _ in whole.kept]
        self._owner.batch_answered(job, [answer for _, answer in whole.kept])


def _model_at_fault(error: BaseException) -> BaseException:
    """The error that callers get while the circuit breaker is open."""
    return ModelFailed(
        f"{error}; its instances die on nearly every request, so the model is at fault, not this request"
    )
