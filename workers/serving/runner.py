"""The driver of one model version: a turn is expire, take, prepare, run; a batch that ran is split, answered and marked done.

Invariants: everything runs on the event loop; every entry that was added leaves exactly once, through `Source.settled`
(its answer is in the store) or `forget` (its partition is now another worker's); a record is done only after its answer is kept.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any, Final

from protocol.dead_letter import DeadLetter
from protocol.messages import Failure
from protocol.model_config import ModelConfig
from protocol.ports import Terminal
from workers.batching import for_config
from workers.batching.types import OF_LANE
from workers.context import Context
from workers.instances.job import Entry, Job
from workers.instances.loaded import LoadedModel
from workers.serving.batch_lane import BatchLane
from workers.serving.held import HeldEntries, Source
from workers.serving.memory import QueueShare
from workers.serving.pipeline import Pipeline
from workers.statistics import ModelStatistics

BATCHES_PER_INSTANCE: Final = 3
"""Full batches that may be here per instance: one that runs, one staged, one being formed."""


class Runner(HeldEntries):
    """Batches, runs and answers the entries of one model version.

    Args:
        context: the model version's.
        loaded: the version and its instances, at least one.
        statistics: counts what happens here.
        source: gives the entries.
        memory: bounds the bytes of entries that wait or run.
        lane: the batch lane, which runs on the same instances.
    """

    def __init__(
        self,
        context: Context,
        loaded: LoadedModel,
        statistics: ModelStatistics,
        source: Source,
        memory: QueueShare,
        lane: BatchLane,
    ) -> None:
        config, executors = loaded.version.config, loaded.executors
        scheduler = for_config(config.max_batch_size, config.dynamic_batching)
        super().__init__(context, statistics, source, scheduler, memory)
        self._max_rows = BATCHES_PER_INSTANCE * max(1, config.max_batch_size) * len(executors)
        self._max_queue_size = _max_queue_size(config)
        self.ordered = config.dynamic_batching is not None and config.dynamic_batching.preserve_ordering
        self._pipeline = self._make_pipeline(context, config, executors, statistics, self)
        self._lane = lane
        self._lane_step: asyncio.Handle | None = None
        lane.attach(self._pipeline, self.turn)
        self._withheld: dict[int, tuple[Job, list[Terminal]]] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def _make_pipeline(self, *arguments: Any) -> Pipeline:
        return Pipeline(*arguments)

    # --- state -------------------------------------------------------------------------------------------------------

    @property
    def running_rows(self) -> int:
        """Rows in batches that run or are staged."""
        return self._pipeline.running_rows

    def room(self) -> int:
        """How many more requests may be taken in; 0 while the store is failing."""
        if self._context.retry.failing or self._memory.free <= 0:
            return 0
        if self._writer.pending > 2 * self._max_rows or self._writer.topics.full:
            return 0
        running = self._pipeline.running_rows - self._lane.out_rows
        rows = self._max_rows - self._scheduler.rows - running - self._followers_rows
        if rows > 0:
            return math.ceil(rows / self._rows_per_request)
        # A bounded queue rejects requests above its bound, so they must be fetched too.
        over = self._max_queue_size + 1 - self._scheduler.depth - self._followers
        return max(0, over) if self._max_queue_size else 0

    def problem(self) -> str:
        """Why no requests should be sent here now; "" where there is no reason."""
        return self._pipeline.problem() or self._writer.topics.problem() or self._lane.problem()

    # --- the turn ----------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Expire, take, prepare, run; then set the timer for the next decision."""
        scheduler, pipeline, now = self._scheduler, self._pipeline, self._clock()
        self._expire(now)
        lane = self._lane if self._lane.waiting else None
        if lane is not None:
            self._look_after_lane(lane, now)
        if scheduler.depth == 0:
            return
        executor = pipeline.free()
        backlog = self._source.backlog() if executor is not None else 0
        while executor is not None and scheduler.depth:
            if lane is not None and lane.run_turn(executor, now):
                executor = pipeline.free()
                continue
            batch = scheduler.take(now, backlog_rows=backlog, idle=executor.held == 0)
            if batch is None:
                break
            if lane is not None:
                lane.top_up(batch, now)
            pipeline.start(batch, executor)
            executor = pipeline.free()
        if scheduler.depth:
            wake = scheduler.wake_at(backlog_rows=backlog, idle=executor is not None and executor.held == 0)
            self._set_timer(wake, now)

    def _look_after_lane(self, lane: BatchLane, now: float) -> None:
        """Let the lane use idle instances, in the event loop's next turn: callers are read before."""
        lane.expire(now)
        self._set_timer(lane.next_due(), now)
        if self._lane_step is None:
            self._lane_step = self._loop.call_soon(self._step_lane)

    def _step_lane(self) -> None:
        self._lane_step = None
        if self._scheduler.depth == 0:
            self._lane.run_idle(self._clock())
        now = self._clock()
        self._lane.expire(now)  # of what cutting found late: no other event may come
        self._set_timer(self._lane.next_due(), now)

    def _set_timer(self, wake: float | None, now: float) -> None:
        """One timer. An earlier one stays: an extra turn changes nothing."""
        if wake is None or wake >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = wake
        self._timer = self._loop.call_later(max(0.0, wake - now), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        self.turn()

    # --- BatchOwner: for the pipeline ----------------------------------------------------------------------------------

    def entry_left(self, entry: Entry, failure: Failure | None) -> None:
        """See `BatchOwner.entry_left`."""
        if entry.sliced:
            self._lane.part_left(entry, failure)
        else:
            super().entry_left(entry, failure)

    def entries_answered(self, entries: Sequence[Entry], answers: list[Terminal]) -> None:
        """See `BatchOwner.entries_answered`."""
        entries, answers = self._without_lane(entries, answers)
        self._writer.put(answers, entries)

    def dead_letter(self, entry: Entry, letter: DeadLetter, failure: Failure) -> None:
        """See `BatchOwner.dead_letter`."""
        if entry.sliced:
            self._lane.part_died(entry, letter, failure)
        else:
            self._source.dead_letter(entry, letter, failure)

    def batch_answered(self, job: Job, answers: list[Terminal]) -> None:
        """See `BatchOwner.batch_answered`."""
        if job.batch.lane_rows or self._lane.waiting:
            self._lane.observe(job)
        if job.batch.lane_rows:
            job.entries, answers = self._without_lane(job.entries, answers)
            if job.batch.sequence == OF_LANE:
                return
        self._withheld[job.batch.sequence] = (job, answers)
        self._emit_in_order(job)

    def batch_emptied(self, job: Job) -> None:
        """See `BatchOwner.batch_emptied`."""
        if job.batch.sequence == OF_LANE:
            self._lane.observe(job)
            return
        self._withheld[job.batch.sequence] = (job, [])
        self._emit_in_order(job)

    def _without_lane(self, entries: Sequence[Entry], answers: list[Terminal]) -> tuple[list[Entry], list[Terminal]]:
        """Hand the outcomes of the batch lane's rows to it; returns the rest."""
        pairs = list(zip(entries, answers, strict=True))
        parts = [pair for pair in pairs if pair[0].sliced]
        if parts:
            self._lane.parts_answered([entry for entry, _ in parts], [answer for _, answer in parts])
        rest = [pair for pair in pairs if not pair[0].sliced]
        return [entry for entry, _ in rest], [answer for _, answer in rest]

    def instance_freed(self) -> None:
        """See `BatchOwner.instance_freed`."""
        self.turn()
        self._source.room_freed()

    def _emit_in_order(self, job: Job) -> None:
        for batch in self._scheduler.completed(job.batch, self._clock()):
            ready, answers = self._withheld.pop(batch.sequence)
            if answers:
                self._writer.put(answers, ready.entries)

    # --- the end -----------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Nothing more will be added: run what is here without waiting for fuller batches."""
        self._scheduler.drain()
        self.turn()

    def abandon(self) -> None:
        """Stop abruptly, as a crash would: unanswered records are delivered again."""
        self._scheduler.drain()
        self._pipeline.abandon()
        self._writer.abandon()
        self._memory.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._lane_step is not None:
            self._lane_step.cancel()


def _max_queue_size(config: ModelConfig) -> int:
    """Requests that the model's queue may hold over all its levels; 0 for no bound."""
    batching = config.dynamic_batching
    if batching is None or not config.batching:
        return 0
    own = [policy.max_queue_size for policy in batching.priority_queue_policies.values()]
    others = max(1, batching.priority_levels) - len(own)
    sizes = [*own, batching.default_queue_policy.max_queue_size] if others > 0 else own
    return 0 if 0 in sizes else sum(own) + max(0, others) * batching.default_queue_policy.max_queue_size
