"""The batch lane of one model version: its records' rows run in the room and time that interactive requests leave.

`batching.lanes` decides when and how many; `rows` cuts records and puts their outputs together; `record_answers` stores these; this
drives all three.

Invariants: everything runs on the event loop, except the work on many strings and large outputs; batches of the lane start one per
turn of the event loop and instance, so that callers are read in between; a record is answered once, after its last part is back.
"""

from __future__ import annotations

import asyncio
import collections
import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol, cast

import structlog

from protocol.dead_letter import DeadLetter
from protocol.errors import Code
from protocol.messages import Failure, InferReply, InferRequest
from protocol.model_config import ModelConfig
from protocol.model_stats import FailureReason
from protocol.ports import Terminal
from protocol.request_check import MAX_BATCH_LANE_ROWS
from protocol.runtime.tasks import BackgroundTasks
from protocol.tensors import MANY
from workers.batching.lanes import LanePlanner, LaneSettings
from workers.batching.types import OF_LANE, Batch, Release
from workers.batching.unbatched import NoBatching
from workers.context import Context
from workers.failures.bisection import Cause
from workers.failures.classify import cause_of
from workers.instances.inline_policy import INLINE_BELOW
from workers.instances.job import Entry, Executor, Job
from workers.serving.held import HeldEntries, Source
from workers.serving.memory import QueueShare
from workers.serving.record_answers import RecordAnswers
from workers.serving.rows import BatchRecord, Slice
from workers.statistics import ModelStatistics

BATCHES_PER_INSTANCE: Final = 4
"""Full batches of the lane's rows that may be here per instance, or one record if that has more."""
BESIDE: Final = 256 * 1024
"""Bytes of the lane's inputs that are put beside interactive requests: few enough to stack them on the event loop."""

log = structlog.get_logger(__name__)


class Instances(Protocol):
    """What the lane needs of the pipeline."""

    executors: Sequence[Executor]

    def start(self, batch: Batch[InferRequest], executor: Executor) -> None:
        """Send the batch on its way."""

    def lane_seconds(self, executor: Executor) -> float | None:
        """Seconds of the lane's batches that the instance holds; None if it holds another one, or has no room."""

    def lane_was_last(self, executor: Executor) -> bool:
        """Whether the newest batch that the instance got is of the lane."""

    @property
    def short_of_memory(self) -> bool:
        """Whether some batches must stay below a size."""


class BatchLane(HeldEntries):
    """Takes in, cuts, runs and answers the records of the batch topic; the intake's `Sink`.

    Args:
        context: the model version's.
        config: complete.
        statistics: counts what happens here.
        source: gives the entries.
        settings: how much the lane may take.
        memory: bounds the bytes of records that wait or run.

    Attributes:
        slowed: why nothing is taken in; "" while something is.
    """

    def __init__(
        self,
        context: Context,
        config: ModelConfig,
        statistics: ModelStatistics,
        source: Source,
        settings: LaneSettings,
        memory: QueueShare,
    ) -> None:
        super().__init__(context, statistics, source, NoBatching(MAX_BATCH_LANE_ROWS if config.batching else 0), memory)
        batching = config.dynamic_batching
        self._batch = max(1, config.max_batch_size)
        self.slowed = ""
        self._divisible = config.batching
        self._combines = config.batching and batching is not None
        self._planner = LanePlanner(self._batch, () if batching is None else batching.preferred_batch_sizes, settings)
        self._bytes_per_request = float(max(1, memory.limit // 2))
        self._begun: dict[str, BatchRecord] = {}
        self._front_record: BatchRecord | None = None
        self._returned: collections.deque[BatchRecord] = collections.deque()
        self._turns: set[Batch[InferRequest]] = set()
        self._out_rows = 0
        self._instances: Instances
        self._turn: Callable[[], None]
        self._background = BackgroundTasks("batch-lane", model=config.name)
        self._answers = RecordAnswers(
            self._replies, self._writer, statistics, context.clock, self._refuse, self._background
        )

    def attach(self, instances: Instances, turn: Callable[[], None]) -> None:
        """Run on these instances; `turn` is the runner's, which knows the interactive requests."""
        self._instances = instances
        self._turn = turn
        self._low = 2 * self._batch * len(instances.executors)
        self._max_rows = BATCHES_PER_INSTANCE * self._batch * len(instances.executors)
        self._rows_per_request = float(self._max_rows)  # the first fetch takes one record

    # --- state -------------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether rows wait here that could run."""
        record = self._front_record
        return self._scheduler.depth > 0 or bool(self._returned) if record is None else record.scanned

    @property
    def queued_rows(self) -> int:
        """Rows that were not cut yet."""
        return self._scheduler.rows + sum([record.left for record in self._begun.values()])

    @property
    def out_rows(self) -> int:
        """Rows in batches."""
        return self._out_rows

    def age(self, now: float) -> float:
        """Seconds since the oldest record here was published."""
        oldest = self.oldest_published()
        return 0.0 if oldest is None else max(0.0, now - oldest)

    def room(self) -> int:
        """How many more records may be taken in; 0 while the store fails or fills."""
        if self.slowed or self._context.retry.failing:
            return 0
        if self._writer.pending > 2 * self._max_rows or self._writer.topics.full:
            return 0
        queued, nbytes = self.queued_rows, self._memory.free
        rows = self._max_rows - queued - self._out_rows - self._followers_rows
        records = int(min(rows / self._rows_per_request, nbytes / self._bytes_per_request))
        if records > 0:
            return records
        # However large records are, the next one is here before the rows run out.
        more = queued < self._low and self._followers_rows < self._max_rows and nbytes > 0
        return 1 if more or not self._entries else 0

    def problem(self) -> str:
        """Why no records should be sent here now; "" where there is no reason."""
        return self._writer.topics.problem()

    # --- in ----------------------------------------------------------------------------------------------------------

    def _lead(self, entry: Entry) -> bool:
        self._bytes_per_request += 0.1 * (max(1, entry.nbytes) - self._bytes_per_request)
        return super()._lead(entry)

    def turn(self) -> None:
        """See `Sink.turn`."""
        self._turn()

    def expire(self, now: float) -> None:
        """Answer records whose time is over."""
        self._expire(now)
        record = self._front_record
        if record is not None and record.left:
            self._stop_if_over(record, now)

    def next_due(self) -> float | None:
        """When to call `expire` next; None to wait for an event."""
        due = self._scheduler.wake_at()
        record = self._front_record
        deadline = None if record is None or not record.left else record.entry.deadline
        return min([at for at in (due, deadline) if at is not None], default=None)

    def _withdraw(self, entry: Entry) -> None:
        """Parts that did not start do not run; the record is answered once the others are back."""
        entry.cancelled = True
        record = self._begun.get(entry.ref)
        if record is None:
            return
        for part in record.out.values():
            part.cancelled = True
        if record.left:
            self._fail(record, Failure(Code.CANCELLED, "the request was cancelled before all its rows ran"))

    def _gives_up(self, entry: Entry) -> bool:
        """A record whose last rows run finishes; any other is left to its new owner once its parts are back."""
        if super()._gives_up(entry):
            return True
        record = self._begun.get(entry.ref)
        if record is None or not record.left:
            return False
        record.drop()
        if record.out:
            return False
        del self._begun[entry.ref]
        return True

    # --- cutting -----------------------------------------------------------------------------------------------------

    def _front(self, now: float) -> BatchRecord | None:
        """The record whose rows are next, if any can be cut now."""
        while True:
            record = self._front_record
            if record is None and self._returned:
                record = self._front_record = self._returned.popleft()
            if record is None:
                batch = self._scheduler.take(now)
                if batch is None:
                    return None
                record = self._begin(cast("Entry", batch.items[0]))
            if not record.scanned:
                return None
            if record.left and not self._stop_if_over(record, now):
                return record
            self._close_if_finished(record)
            self._front_record = None

    def _begin(self, entry: Entry) -> BatchRecord:
        record = self._front_record = self._begun[entry.ref] = BatchRecord(entry, divisible=self._divisible)
        if record.strings > MANY and not record.scanned:
            self._background.spawn(self._scan_elsewhere(record))
        elif not record.scanned:
            self._scan(record)
        return record

    async def _scan_elsewhere(self, record: BatchRecord) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._scan, record)
        if record.failure is not None:
            self._close_if_finished(record)
        self._turn()

    def _scan(self, record: BatchRecord) -> None:
        """Find its rows of strings; on any thread."""
        try:
            record.scan()
        except Exception as exc:  # what cannot be read was refused before
            log.error("the rows of a record cannot be told apart", request=record.entry.payload.id, exc_info=exc)
            record.fail(Failure(Code.INTERNAL, "the worker failed to tell the rows of this record apart"))
            record.scanned = True

    def _stop_if_over(self, record: BatchRecord, now: float) -> bool:
        """Cut no more of a record that nobody waits for; whether it is one."""
        if record.entry.late(now):
            self._fail(record, Failure(Code.DEADLINE_EXCEEDED, "the deadline passed before all rows ran"))
            return True
        return False

    def _cut(self, shape_class: object, rows: int, now: float, *, beside: bool) -> list[Slice]:
        """Up to so many rows of this shape, from the front; `beside` interactive requests only such as harm nobody."""
        parts: list[Slice] = []
        while rows > 0:
            record = self._front(now)
            if record is None or record.entry.shape_class != shape_class or (beside and not record.harmless(now)):
                break
            part = record.cut(rows)
            if not record.left:
                self._front_record = None
            parts.append(part)
            rows -= part.rows
            self._out_rows += part.rows
            if not self._combines:
                break
        return parts

    # --- running -----------------------------------------------------------------------------------------------------

    def top_up(self, batch: Batch[InferRequest], now: float) -> None:
        """Fill rows that an interactive batch leaves empty, where that costs it nothing."""
        if not self._combines or self._instances.short_of_memory:
            return
        shape_class = batch.items[0].shape_class
        record = self._front(now)
        if record is None or record.entry.shape_class != shape_class or not record.harmless(now):
            return
        most = min(self.queued_rows, BESIDE // max(1, record.bytes_per_row))
        extra = self._planner.top_up(shape_class, batch.rows, most)
        if extra == 0:
            return
        parts = self._cut(shape_class, extra, now, beside=True)
        batch.lane_rows = sum([part.rows for part in parts])
        batch.rows += batch.lane_rows
        batch.items += parts
        self._statistics.lane.topped_up_rows += batch.lane_rows

    def run_turn(self, executor: Executor, now: float) -> bool:
        """Run a batch before interactive requests that wait, if the lane has earned it; whether it has."""
        record = self._front(now)
        if record is None or self._instances.lane_was_last(executor):
            return False  # no second batch of the lane in front of the same requests
        shape_class = record.entry.shape_class
        rows = self._planner.batch_rows(shape_class, 0.0, now)
        if not self._planner.turn_due(self._planner.expected(shape_class, rows, now)):
            return False
        batch = self._form(shape_class, rows, now)
        self._planner.spend(batch.lane_seconds)
        self._turns.add(batch)
        self._instances.start(batch, executor)
        return True

    def run_idle(self, now: float) -> None:
        """Run a batch on every instance that has no other work, and one behind it if both are short."""
        for executor in self._instances.executors:
            held = self._instances.lane_seconds(executor)
            if held is None or (executor.loop_safe and 0.0 < held < INLINE_BELOW):
                continue  # the batch there runs on this loop, or has run
            record = self._front(now)
            if record is None:
                return
            shape_class = record.entry.shape_class
            rows = self._planner.batch_rows(shape_class, held, now)
            if rows:
                batch = self._form(shape_class, rows, now)
                self._planner.spend_idle(batch.lane_seconds)
                self._instances.start(batch, executor)

    def _form(self, shape_class: object, rows: int, now: float) -> Batch[InferRequest]:
        parts = self._cut(shape_class, rows, now, beside=False)
        rows = sum([part.rows for part in parts])
        seconds = self._planner.expected(shape_class, rows, now)
        self._statistics.lane.executions += 1
        self._statistics.lane.rows += rows
        return Batch(list(parts), rows, Release.BATCH_LANE, now, OF_LANE, rows, seconds)

    def observe(self, job: Job) -> None:
        """A batch with rows of the lane came back, or any while rows wait here."""
        batch = job.batch
        took_turn = batch in self._turns
        self._turns.discard(batch)
        if job.error is not None or not job.compute_start:
            return
        seconds, now = job.compute_end - job.compute_start, self._clock()
        if job.entries:  # rows beside interactive requests must cost them nothing before the run, either
            prepared = max(0.0, job.input_end - job.input_start)
            self._planner.observe(job.entries[0].shape_class, batch.rows, prepared + seconds, now)
        if batch.sequence != OF_LANE:
            self._planner.earn(seconds, self.age(now))
        elif took_turn:
            self._planner.spend(seconds - batch.lane_seconds)

    # --- back --------------------------------------------------------------------------------------------------------

    def parts_answered(self, parts: Sequence[Entry], answers: Sequence[Terminal]) -> None:
        """These parts have their outcomes."""
        for part, answer in zip(parts, answers, strict=True):
            if self._too_large(part):
                self._put_back(part)
                continue
            record = self._came_back(part)
            record.came_back(cast("Slice", part), cast("InferReply", answer.payload))
            self._close_if_finished(record)
        self._source.room_freed()

    def _too_large(self, part: Entry) -> bool:
        """Whether memory was short for a part that has more than one row."""
        error = None if part.job is None else part.job.error
        return error is not None and self._divisible and part.rows > 1 and cause_of(error) is Cause.MEMORY

    def _put_back(self, part: Entry) -> None:
        self._planner.observe(part.shape_class, part.rows, math.inf, self._clock())
        record = self._came_back(part)
        record.put_back(cast("Slice", part))
        if not record.ended and self._front_record is not record:
            self._returned.append(record)
        self._close_if_finished(record)
        self._turn()

    def part_left(self, part: Entry, failure: Failure | None) -> None:
        """The part will not run: it is late or cancelled (`failure`), or its record has its answer already (None)."""
        record = self._came_back(part)
        record.left_out(cast("Slice", part), failure)
        self._close_if_finished(record)

    def part_died(self, part: Entry, letter: DeadLetter, failure: Failure) -> None:
        """The part goes to the dead letters, and so does its record."""
        record = self._came_back(part)
        record.died(cast("Slice", part), letter, failure)
        self._close_if_finished(record)

    def _came_back(self, part: Entry) -> BatchRecord:
        self._out_rows -= part.rows
        record = cast("Slice", part).whole
        assert record is not None
        part.job = None
        return record

    def _fail(self, record: BatchRecord, failure: Failure) -> None:
        record.fail(failure)
        self._close_if_finished(record)

    def _close_if_finished(self, record: BatchRecord) -> None:
        entry = record.entry
        if not record.finished or self._begun.get(entry.ref) is not record:
            return
        del self._begun[entry.ref]
        if self._front_record is record:
            self._front_record = None
        if record.dropped:
            self._let_go(entry)
        elif record.answered:
            self.entry_left(entry, None)
        elif record.letter is not None and record.failure is not None:
            self._source.dead_letter(entry, record.letter, record.failure)
        elif record.failure is not None:
            self._refuse(record, record.failure)
        else:
            self._answers.answer(record)

    def _let_go(self, entry: Entry) -> None:
        """The record is another worker's; a repetition of it may be ours."""
        self._drop(entry)
        promoted = self._promote_follower(entry)
        self._update_empty()
        if promoted:
            self._turn()

    def _refuse(self, record: BatchRecord, failure: Failure) -> None:
        reasons = {Code.CANCELLED: FailureReason.CANCELED, Code.DEADLINE_EXCEEDED: FailureReason.REJECTED}
        self.refuse(record.entry, failure, reasons.get(failure.code, FailureReason.BACKEND))

    # --- the end -----------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Nothing more will be added."""
        self._scheduler.drain()

    def abandon(self) -> None:
        """Stop abruptly, as a crash would: unanswered records are delivered again."""
        self._scheduler.drain()
        self._writer.abandon()
        self._memory.close()
        self._background.cancel()
