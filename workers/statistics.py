"""This worker's counts of one model version, as plain numbers: Triton's statistics and our own; and what each answer adds to the
fleet's totals (`protocol.model_stats` has the table). Pure.

Invariants: a batch is counted before its answers go out, so a caller who has an answer finds it counted; counters only grow; a
run is added to the totals with one answer. A request counts 1 whatever its rows; `inference_count` counts rows; `execution_count`
counts batches that ran. Every request of a batch is charged the batch's full compute times, as in Triton, so means over `success`
are what requests experienced.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Final

from protocol.messages import Runs
from protocol.model_stats import (
    FIRST_RESPONSE_MS,
    BatchStats,
    DurationStats,
    FailureReason,
    ModelStats,
    add_miss,
    add_release,
    add_run,
    count_cached,
    count_failure,
    count_success,
    encode_duration,
    encode_model_stats,
    merge_runs,
)
from protocol.totals import Counts, Key
from workers.latency import LatencyModel

SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


class Histogram:
    """Counts per bucket; a value belongs to the first bound that is not below it.

    Attributes:
        bounds: upper, ascending; one more bucket takes values above the last.
        counts: per bucket, not cumulative.
        total: sum of the values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count the value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += times
        self.total += value * times

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, count of values up to it), as Prometheus expects it."""
        totals = itertools.accumulate(self.counts)
        return list(zip([*map(str, map(float, self.bounds)), "+Inf"], map(float, totals), strict=True))


@dataclasses.dataclass(slots=True)
class Duration:
    """A count, and the total seconds."""

    count: int = 0
    seconds: float = 0.0

    def add(self, count: int, seconds: float) -> None:
        """Add to both; a clock that was set back does not make time negative."""
        self.count += count
        if seconds > 0.0:
            self.seconds += seconds

    def to_json(self) -> DurationStats:
        """See `encode_duration`."""
        return encode_duration(self.count, self.seconds)


@dataclasses.dataclass(slots=True)
class Executed:
    """One batch that ran, or that failed before or while it ran.

    Attributes:
        rows: in the batch.
        enqueued: when each request that succeeded was enqueued.
        succeeded_rows: rows of those, and of records of the batch lane.
        failed: requests that the model answered with an error.
        failed_seconds: from enqueued to the end, summed over those.
        compute_input, compute_infer, compute_output: seconds of the batch; `compute_infer` is 0 where it never ran.
        compute_start, compute_end, end: times; at `end` the answers were ready.
    """

    rows: int
    enqueued: list[float]
    succeeded_rows: int
    failed: int
    failed_seconds: float
    compute_input: float
    compute_start: float
    compute_end: float
    end: float
    compute_infer: float = dataclasses.field(init=False)
    compute_output: float = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.compute_infer = self.compute_end - self.compute_start
        self.compute_output = self.end - self.compute_end


@dataclasses.dataclass(slots=True)
class LaneStatistics:
    """Counts of the batch lane.

    Attributes:
        records: that have their outputs.
        executions: batches that held only its rows.
        rows: that were put in those.
        topped_up_rows: that were put beside interactive requests.
    """

    records: int = 0
    executions: int = 0
    rows: int = 0
    topped_up_rows: int = 0


class ModelStatistics:
    """Counts; read by the heartbeat and the metrics.

    Args:
        key: (model, version), whose totals its answers add to.
        first_response: upper bounds of the buckets of the first responses' histogram, in milliseconds.

    Attributes:
        releases: batches by reason of release.
        rejections: requests not queued, by reason.
        dead_letters: records by reason.
        redeliveries: requests that were begun before, here or elsewhere.
        already_answered: redelivered requests that had their answer and were skipped.
        cancellations: requests answered CANCELLED without having run.
        lost: records that were deleted from the log unread.
        deaths: runs in which an instance died.
        reruns: parts of batches that were run again, or on their own from the start.
        lane: of the batch lane.
    """

    def __init__(self, key: Key = ("", ""), first_response: Sequence[float] = FIRST_RESPONSE_MS) -> None:
        self.key = key
        self._unreported: dict[str, int] = {}
        self.last_inference = 0.0
        self.inference_count = 0
        self.execution_count = 0
        self.success = Duration()
        self.fail = Duration()
        self.queue = Duration()
        self.compute_input = Duration()
        self.compute_infer = Duration()
        self.compute_output = Duration()
        self.cache_hit = Duration()
        self.cache_miss = Duration()
        self.failures: dict[FailureReason, int] = dict.fromkeys(FailureReason, 0)
        self.by_batch_size: dict[int, tuple[Duration, Duration, Duration]] = {}
        self.releases: collections.Counter[str] = collections.Counter()
        self.rejections: collections.Counter[str] = collections.Counter()
        self.dead_letters: collections.Counter[str] = collections.Counter()
        self.redeliveries = self.already_answered = self.cancellations = self.lost = 0
        self.deaths = self.reruns = 0
        self.lane = LaneStatistics()
        self.batch_rows = Histogram(ROWS)
        self.queue_seconds = Histogram(SECONDS)
        self.compute_seconds = Histogram(SECONDS)
        self.emit_seconds = Histogram(SECONDS)
        self.first_response = Histogram(first_response)
        """In milliseconds."""
        self._runs: tuple[int, Runs] = (0, ())
        self.latency = LatencyModel()

    def released(self, reason: str) -> None:
        """A batch was released for this reason."""
        self.releases[reason] += 1
        add_release(self._unreported, reason)

    def executed(self, batch: Executed) -> None:
        """A batch ran, or failed."""
        if batch.compute_start:
            self.ran(batch.rows, batch.compute_input, batch.compute_infer, batch.compute_output)
        if batch.succeeded_rows:
            self.last_inference = batch.end
            self.inference_count += batch.succeeded_rows
        if batch.enqueued:
            self._succeeded(batch, len(batch.enqueued))
        if batch.failed:
            self.failures[FailureReason.BACKEND] += batch.failed
            self.fail.add(batch.failed, batch.failed_seconds)

    def ran(self, rows: int, compute_input: float, compute_infer: float, compute_output: float) -> None:
        """The model ran on so many rows, for so many seconds, with or without success."""
        self.execution_count += 1
        self.batch_rows.observe(rows)
        self.compute_seconds.observe(compute_infer)
        of_size = self.by_batch_size.get(rows)
        if of_size is None:
            of_size = self.by_batch_size[rows] = (Duration(), Duration(), Duration())
        taken, ran, given = of_size
        taken.add(1, compute_input)
        ran.add(1, compute_infer)
        given.add(1, compute_output)
        add_run(self._unreported, rows, compute_input, compute_infer, compute_output)

    def _succeeded(self, batch: Executed, count: int) -> None:
        enqueued = sum(batch.enqueued)
        self.success.add(count, batch.end * count - enqueued)
        self.queue.add(count, (batch.compute_start - batch.compute_input) * count - enqueued)
        self.compute_input.add(count, batch.compute_input * count)
        self.compute_infer.add(count, batch.compute_infer * count)
        self.compute_output.add(count, batch.compute_output * count)
        started = batch.compute_start
        if count == 1:
            self.queue_seconds.observe(started - enqueued)
            self.first_response.observe((batch.end - enqueued) * 1000)
            return
        for at, times in collections.Counter(batch.enqueued).items():  # requests of one fetch were enqueued at one time
            self.queue_seconds.observe(started - at, times)
            self.first_response.observe((batch.end - at) * 1000, times)

    def record_succeeded(self, rows: int, enqueued: float, start: float, compute: float, now: float) -> Counts:
        """A record of the batch lane has its outputs; here its rows are counted with their batches. Returns what its answer adds.

        Args:
            rows: of the record.
            enqueued, start, now: times: when it was enqueued, when its first batch began, when it has its outputs.
            compute: seconds that its batches ran.
        """
        self.lane.records += 1
        self.success.add(1, now - enqueued)
        self.queue.add(1, start - enqueued)
        self.compute_infer.add(1, compute)
        self.queue_seconds.observe(start - enqueued)
        self.first_response.observe((now - enqueued) * 1000)
        times = now - enqueued, start - enqueued
        return self.with_runs(count_success(self.key, rows, times, (0.0, compute, 0.0), now))

    def failed(self, reason: FailureReason, seconds: float) -> Counts:
        """A request is answered with a failure without a run, `seconds` after it was enqueued; returns what that answer adds."""
        self.failures[reason] += 1
        self.fail.add(1, seconds)
        if reason is FailureReason.CANCELED:
            self.cancellations += 1
        return self.with_runs(count_failure(self.key, reason, seconds))

    # --- the fleet's totals ------------------------------------------------------------------------------------------

    def with_runs(self, counts: Counts) -> Counts:
        """The same counts of an answer, with the runs that no answer has reported yet. No other answer may share the object."""
        if self._unreported:
            counts.batch, self._unreported = self._unreported, {}
        return counts

    def success_counts(self, batch: Executed, enqueued: float, rows: int, within: str = "") -> Counts:
        """What a request of the batch that succeeded adds; `within` is the bucket of its time since it was accepted."""
        whole = batch.end - enqueued
        queue = batch.compute_start - batch.compute_input - enqueued
        compute = batch.compute_input, batch.compute_infer, batch.compute_output
        return count_success(self.key, rows, (whole, queue), compute, batch.end, within)

    def failure_counts(self, reason: FailureReason, seconds: float) -> Counts:
        """What a failure adds, `seconds` after the request was enqueued."""
        return count_failure(self.key, reason, seconds)

    def cached(self, seconds: float, lookup: float, within: str = "") -> Counts:
        """A request is answered from the response cache, `seconds` after it was enqueued; returns what that answer adds.

        Args:
            lookup: seconds of the look-up.
            within: the bucket of its time since it was accepted.
        """
        self.success.add(1, seconds)
        self.queue.add(1, seconds - lookup)
        self.cache_hit.add(1, lookup)
        self.first_response.observe(seconds * 1000)
        return self.with_runs(count_cached(self.key, seconds, lookup, within))

    def cache_missed(self, seconds: float) -> None:
        """The response cache did not have a request; looking it up and inserting its answer took so long."""
        self.cache_miss.add(1, seconds)
        add_miss(self._unreported, seconds)

    def runs(self) -> Runs:
        """How long batches took, in a few classes of sizes; summed up again only after a batch ran."""
        if self._runs[0] != self.execution_count:
            sizes = sorted(self.by_batch_size.items())
            merged = merge_runs([(rows, ran.count, round(ran.seconds * 1e9)) for rows, (_, ran, _) in sizes])
            self._runs = (self.execution_count, merged)
        return self._runs[1]

    def to_json(self) -> ModelStats:
        """See `encode_model_stats`."""
        durations = {
            "success": self.success,
            "fail": self.fail,
            "queue": self.queue,
            "compute_input": self.compute_input,
            "compute_infer": self.compute_infer,
            "compute_output": self.compute_output,
            "cache_hit": self.cache_hit,
            "cache_miss": self.cache_miss,
        }
        batches: list[BatchStats] = [
            {
                "batch_size": rows,
                "compute_input": taken.to_json(),
                "compute_infer": ran.to_json(),
                "compute_output": given.to_json(),
            }
            for rows, (taken, ran, given) in sorted(self.by_batch_size.items())
        ]
        return encode_model_stats(
            self.last_inference,
            self.inference_count,
            self.execution_count,
            {name: duration.to_json() for name, duration in durations.items()},
            batches,
        )
