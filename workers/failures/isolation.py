"""The driver of `verdicts`: runs a batch that went wrong again in parts, one part at a time, on the instance that it went wrong on.

Invariants: while an instance has an inquest it takes no new batches, so that nobody else is in a run that dies; answers leave as
soon as their part has run, except where the model keeps the order of its answers; each batch comes back once through
`Owner.answered` or `Owner.emptied`, after all its entries have an end; deadlines and cancellations are checked before each part.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from protocol.errors import ModelFailed, described
from protocol.ports import Answer
from workers.failures.bisection import Cause, Inquiry
from workers.failures.classify import answer_to_poison, cause_of, letter_of
from workers.failures.limits import DEATHS, FAILURES, Caps, Flood
from workers.failures.parts import Inquest, Owner, Part
from workers.instances.executor import DEPTH
from workers.instances.job import Entry, Executor, Job
from workers.statistics import ModelStatistics

RESTART: Final = 0.3
"""Seconds that an instance is taken to need for starting again until it was measured."""
RUN: Final = 0.005
"""Seconds that a part is taken to run until that was measured."""
OVERHEAD: Final = 0.001
"""Seconds that a part costs besides running."""

log = structlog.get_logger(__name__)


class Inquests:
    """The inquests of one model version, one at a time per instance.

    Args:
        statistics: has the latency; counts what happens here.
        owner: of the batches.
        clock: the fleet's.
        launch: sends a part on its way; the executor has room.
        max_rows: of a batch.
        attempts: see `verdicts.ATTEMPTS`.

    Attributes:
        rows: of entries here that have no end and are not in a part.
        caps: what memory is known to be enough for.
    """

    def __init__(
        self,
        statistics: ModelStatistics,
        owner: Owner,
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
        self._deaths = Flood(DEATHS)
        self._failures = Flood(FAILURES)
        self._open: dict[Executor, collections.deque[Inquest]] = {}
        self._restart = RESTART
        self._died: dict[Executor, float] = {}
        self._abandoned = False
        self._loop = asyncio.get_running_loop()

    # --- what is here ------------------------------------------------------------------------------------------------

    def __bool__(self) -> bool:
        return bool(self._open)

    def at(self, executor: Executor) -> bool:
        """Whether the executor has an inquest."""
        return executor in self._open

    def problem(self) -> str:
        """Why nobody should send requests now; "" while nothing speaks against it."""
        if self._deaths.rising(self._clock()):
            return "its instances die on nearly every request; the model is at fault, and nothing is buried"
        return ""

    # --- what happens ------------------------------------------------------------------------------------------------

    def divide(self, job: Job, parts: Sequence[Sequence[Entry]]) -> None:
        """Run the batch in these parts from the start; it holds no place in its executor."""
        self._begin(Inquest(job, Inquiry(parts, self._attempts)))

    def failed(self, job: Job, error: BaseException) -> BaseException | None:
        """A batch, or a part of one, gave no answers.

        Returns:
            The error to answer the job's entries with; None where they are taken care of.
        """
        now, cause = self._clock(), cause_of(error)
        if cause is Cause.MEMORY and len(job.entries) > 1:
            cap = self.caps.exceeded(job.entries[0].shape_class, job.batch.rows, now)
            log.warning(
                "out of memory; smaller batches follow", instance=job.executor.name, rows=cap, of=job.batch.rows
            )
        flooded = self._flood(cause).rising(now)
        if cause.deadly:
            self._statistics.deaths += 1
            self._died[job.executor] = now
        if isinstance(job, Part):
            return self._part_failed(job, error, cause, flooded=flooded)
        if flooded and cause is not Cause.MEMORY:
            return _flooded(error) if cause.deadly else error
        inquest = Inquest(job, Inquiry((), self._attempts))
        if not self._judge(inquest, job, error, cause):
            return error
        self._begin(inquest)
        return None

    def succeeded(self, job: Job) -> None:
        """A batch, or a part of one, has answers."""
        now, innocent = self._clock(), len(job.entries)
        self._deaths.note(now, 0, innocent)
        self._failures.note(now, 0, innocent)
        if isinstance(job, Part):
            job.inquest.inquiry.succeeded()
            self._measure_restart(job)

    def answered(self, part: Part, answers: list[Answer]) -> None:
        """The part's entries have their answers, of success or failure."""
        inquest = part.inquest
        if self._owner.ordered:
            inquest.kept += zip(part.entries, answers, strict=True)
        else:
            self._owner.partly(part.entries, answers)
        self._ended(part)

    def skipped(self, part: Part) -> None:
        """Nothing of the part was left to run."""
        part.inquest.inquiry.skipped()
        self._ended(part)

    def advance(self, executor: Executor) -> None:
        """The executor may have room: go on with its first inquest."""
        waiting = self._open.get(executor)
        while waiting and not self._abandoned:
            inquest = waiting[0]
            if inquest.part is not None:
                return
            if not inquest.inquiry.waiting:
                waiting.popleft()
                self._close(inquest)
                if not waiting:
                    del self._open[executor]
                    self._owner.freed()
                continue
            if executor.held >= DEPTH:
                return
            entries = inquest.inquiry.next()
            assert entries is not None
            inquest.part = Part(inquest, entries)
            self.rows -= inquest.part.batch.rows
            self._statistics.reruns += 1
            self._launch(inquest.part)

    def abandon(self) -> None:
        """Run nothing more."""
        self._abandoned = True

    # --- how ---------------------------------------------------------------------------------------------------------

    def _flood(self, cause: Cause) -> Flood:
        return self._deaths if cause.deadly else self._failures

    def _begin(self, inquest: Inquest) -> None:
        job = inquest.job
        # What was buried at once is no longer in the inquiry; its entry left the job.
        self.rows += sum([entry.rows for entry in job.entries])
        self._open.setdefault(job.executor, collections.deque()).append(inquest)
        self._loop.call_soon(self.advance, job.executor)

    def _part_failed(self, part: Part, error: BaseException, cause: Cause, *, flooded: bool) -> BaseException | None:
        self._measure_restart(part)
        inquest = part.inquest
        if cause.deadly and flooded:
            log.error(
                "the model's instances die on nearly every request; nothing is buried", instance=part.executor.name
            )
            left = inquest.inquiry.drop()
            self.rows -= sum([entry.rows for entry in left])
            part.entries += left
            part.batch.rows = sum([entry.rows for entry in part.entries])
            return _flooded(error)
        if not self._judge(inquest, part, error, cause):
            return error
        self.rows += part.batch.rows
        self._ended(part)
        return None

    def _judge(self, inquest: Inquest, job: Job, error: BaseException, cause: Cause) -> bool:
        """Let the inquiry decide; whether the job's entries run again or are buried."""
        sentences = inquest.inquiry.failed(job.entries, cause, self._price(job))
        if cause is not Cause.MEMORY:
            self._flood(cause).note(self._clock(), len(sentences), 0)
        if not sentences:
            log.warning(
                "a batch failed; its requests run again in parts", instance=job.executor.name, requests=len(job.entries),
                cause=cause.value, error=described(error), request=job.entries[0].payload.id,
            )  # fmt: skip
            return True
        if not sentences[0].buried:
            return False
        (sentence,) = sentences
        self._owner.bury(sentence.item, letter_of(sentence, error, inquest.mates), answer_to_poison(sentence, error))
        job.entries = []
        job.batch.rows = 0
        return True

    def _price(self, job: Job) -> float:
        """How many runs that succeed cost as much as another one like this."""
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

    def _ended(self, part: Part) -> None:
        part.inquest.part = None
        self._loop.call_soon(self.advance, part.executor)

    def _close(self, inquest: Inquest) -> None:
        job = inquest.job
        if not inquest.kept:
            job.entries = []
            self._owner.emptied(job)
            return
        place = {id(item): index for index, item in enumerate(job.batch.items)}
        inquest.kept.sort(key=lambda pair: place[id(pair[0])])
        job.entries = [entry for entry, _ in inquest.kept]
        self._owner.answered(job, [answer for _, answer in inquest.kept])


def _flooded(error: BaseException) -> BaseException:
    """What callers are told where the model is at fault."""
    return ModelFailed(
        f"{error}; its instances die on nearly every request, so the model is at fault, not this request"
    )
