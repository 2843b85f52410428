"""The outcomes, answers and counts of a batch that ran. Nothing here blocks; any thread may split and encode."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import structlog

from protocol.answer_times import bucket
from protocol.errors import Code, FleetError, ModelFailed
from protocol.messages import Failure, InferRequest
from protocol.model_stats import FailureReason
from protocol.ports import Terminal
from protocol.runtime.repeats import Flood
from protocol.tensors import Tensor, element_count
from protocol.totals import Counts
from workers.backends.base import Outcome
from workers.backends.tracebacks import trace_of
from workers.instances.inline_policy import InlinePolicy
from workers.instances.job import Entry, Job, ModelRaised, failure_message
from workers.results.replies import Replies
from workers.statistics import Executed, ModelStatistics

_NAMED: Final = 8
"""Further requests of a failed batch that its log record names."""
_FLOATS: Final = frozenset({"FP16", "FP32", "FP64"})

log = structlog.get_logger(__name__)


class BatchOutcomes:
    """Outcomes of one model version's batches.

    Args:
        replies: encodes them.
        statistics: counts them.
        inline_policy: learns how long runs take.
        clock: the fleet's.
        refuse_nan: an output with a NaN is a failure.
    """

    def __init__(
        self,
        replies: Replies,
        statistics: ModelStatistics,
        inline_policy: InlinePolicy,
        clock: Callable[[], float],
        *,
        refuse_nan: bool,
    ) -> None:
        self._replies = replies
        self._statistics = statistics
        self._inline_policy = inline_policy
        self._clock = clock
        self._refuse_nan = refuse_nan
        self._flood = Flood()

    def split_job(self, job: Job) -> Sequence[Outcome]:
        """One outcome per entry of a job that ran without an error.

        Raises:
            Exception: whatever `Executor.split` raises; the batch has no outcomes.
            ModelFailed: there are too few or too many, or one has a NaN and `refuse_nan` is set.
        """
        outcomes: Sequence[Outcome] = job.executor.split(job.requests, job.raw)
        if len(outcomes) != len(job.entries):
            raise ModelFailed(f"it gave {len(outcomes)} answers to {len(job.entries)} requests")
        if self._refuse_nan:
            _check_numbers(outcomes)
        return outcomes

    def fail_job(self, job: Job, error: BaseException) -> Sequence[Outcome]:
        """The same failure for every entry."""
        message = failure_message(job.executor.name, error)
        first = job.entries[0].payload
        others = {"others": [each.id for each in job.requests[1 : 1 + _NAMED]]} if len(job.entries) > 1 else {}
        held = self._flood.held((type(error).__name__, message.partition("\n\nAt:\n")[2]), self._clock())
        if held is not None:
            log.error(
                "batch failed", model=first.model, version=first.version, requests=len(job.entries), request=first.id, **others,
                traceparent=first.traceparent, error=message.partition("\n")[0], **_traced(error),
                **({"not_logged": held} if held else {}),
            )  # fmt: skip
        code = error.code if isinstance(error, FleetError) else Code.MODEL_FAILED
        return [Failure(code, message)] * len(job.entries)

    def encode_job(self, job: Job, outcomes: Sequence[Outcome]) -> tuple[Sequence[Outcome], list[Terminal]]:
        """The outcomes and their answers. An outcome that cannot be encoded becomes a failure; the others stay."""
        now = self._clock()
        try:
            return outcomes, self._replies.of_batch(job, outcomes, now)
        except Exception:
            pairs = [self._encode_one(job, *pair, now) for pair in zip(job.entries, outcomes, strict=True)]
            return [outcome for outcome, _ in pairs], [answer for _, answer in pairs]

    def _encode_one(self, job: Job, entry: Entry, outcome: Outcome, now: float) -> tuple[Outcome, Terminal]:
        try:
            return outcome, self._replies.of_batch(job, [outcome], now, [entry])[0]
        except Exception as exc:
            log.warning("an answer cannot be encoded", request=entry.payload.id, exc_info=exc)
            failure = (
                outcome
                if isinstance(outcome, Failure)
                else Failure(Code.MODEL_FAILED, failure_message(job.executor.name, exc))
            )
            return failure, self._replies.bare(entry, failure)

    def count_run(self, job: Job, rows: int) -> None:
        """Count a batch that ran without giving answers, and whose requests run again."""
        if job.compute_start:
            end = max(job.compute_start, job.compute_end or self._clock())
            self._statistics.ran(rows, job.input_end - job.input_start, end - job.compute_start, 0.0)

    def count_job(self, job: Job, outcomes: Sequence[Outcome], answers: Sequence[Terminal]) -> None:
        """Count the batch, before its answers go out; each gets what it adds to the fleet's totals."""
        end = self._clock()
        enqueued, rows, failed, failed_seconds = [], 0, 0, 0.0
        for entry, outcome in zip(job.entries, outcomes, strict=True):
            if entry.sliced:  # counted as a request once, with its record
                rows += 0 if isinstance(outcome, Failure) else entry.rows
            elif isinstance(outcome, Failure):
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
        self._share_counts(executed, job.entries, outcomes, answers)
        if job.compute_start and job.error is None:
            shape_class, seconds = job.entries[0].shape_class, executed.compute_infer
            self._statistics.latency.observe(shape_class, job.batch.rows, seconds)
            if job.executor.loop_safe:
                self._inline_policy.record(shape_class, job.batch.rows, seconds, job.cpu, end)

    def _share_counts(
        self, batch: Executed, entries: Sequence[Entry], outcomes: Sequence[Outcome], answers: Sequence[Terminal]
    ) -> None:
        """Give each answer its counts; answers that add the same share them, but for the first, which reports the run too."""
        statistics = self._statistics
        shared: dict[tuple[float, int, str], Counts] = {}
        first = True
        for entry, outcome, answer in zip(entries, outcomes, answers, strict=True):
            if entry.sliced:
                continue
            failed = isinstance(outcome, Failure)
            within = "" if failed else bucket(entry.payload.accepted, batch.end)
            same = (entry.enqueued, 0 if failed else entry.rows, within)
            counts = None if first else shared.get(same)
            if counts is None:
                if failed:
                    counts = statistics.failure_counts(FailureReason.BACKEND, batch.end - entry.enqueued)
                else:
                    counts = statistics.success_counts(batch, entry.enqueued, entry.rows, within)
                if first:
                    statistics.with_runs(counts)
                    first = False
                else:
                    shared[same] = counts
            answer.counts = counts


def size_of(outcomes: Sequence[Outcome]) -> int:
    """Bytes of all outputs."""
    return sum([len(t.data) for outcome in outcomes if not isinstance(outcome, Failure) for t in outcome])


def strings_taken(requests: Sequence[InferRequest]) -> int:
    """BYTES elements of all inputs."""
    return sum([element_count(t.shape) for request in requests for t in request.inputs if t.datatype == "BYTES"])


def strings_given(raw: object) -> float:
    """Elements that become BYTES outputs; infinite if that is unknown before the split."""
    if not isinstance(raw, Mapping):
        return math.inf
    return sum([array.size for array in raw.values() if isinstance(array, np.ndarray) and array.dtype.kind in "OSU"])


def _traced(error: BaseException) -> dict[str, object]:
    """The traceback for the log, in one record, with the model's own frames first."""
    trace = error.trace if isinstance(error, ModelRaised) else trace_of(error)
    if trace:
        return {"exception": trace}
    return {} if isinstance(error, FleetError) else {"exc_info": error}


def _check_numbers(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        if not isinstance(outcome, Failure):
            for tensor in outcome:
                if _has_nan(tensor):
                    raise ModelFailed(f"output '{tensor.name}' holds a NaN, which the parameter refuse_nan forbids")


def _has_nan(tensor: Tensor) -> bool:
    if tensor.datatype == "BF16":
        bits = np.frombuffer(tensor.data, "<u2")
        return bool(np.any((bits & 0x7FFF) > 0x7F80))
    return tensor.datatype in _FLOATS and bool(np.isnan(tensor.array()).any())
