"""The driver of one model version: a turn is expire, take, prepare, run; a batch that ran is split, answered and marked done.

Invariants: everything runs on the event loop; every entry that was added leaves exactly once, through `Source.settled`
(its answer is in the store) or `forget` (its partition is now another worker's); a record is done only after its answer is kept.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import math
from collections.abc import Collection, Sequence
from typing import Final, Protocol, cast

from protocol.dead_letter import DeadLetter
from protocol.errors import Code
from protocol.messages import Failure, InferRequest
from protocol.model_config import ModelConfig
from protocol.ports import Cancel, Terminal
from workers.batching import for_config
from workers.batching.types import Reject, Rejection, Scheduler
from workers.context import Context
from workers.instances.job import Entry, Executor, Job
from workers.results.replies import Replies
from workers.results.writer import ResultWriter
from workers.serving.pipeline import Pipeline
from workers.statistics import FailureReason, ModelStatistics

BATCHES_PER_INSTANCE: Final = 3
"""Full batches that may be here per instance: one that runs, one staged, one being formed."""


class Source(Protocol):
    """Where a runner's entries come from: `intake.Intake`."""

    def backlog(self) -> int:
        """Records known to be in the log but not fetched yet."""

    def settled(self, entries: Sequence[Entry]) -> None:
        """The answers of these entries are in the store: their records are done."""

    def dead_letter(self, entry: Entry, letter: DeadLetter, failure: Failure) -> None:
        """Publish the letter; then the entry comes back through `Runner.refuse` with the failure."""

    def room_freed(self) -> None:
        """There may be room for more."""


class Runner:
    """Batches, runs and answers the entries of one model version.

    Args:
        context: the model version's.
        config: complete.
        executors: the loaded instances, at least one.
        statistics: counts what happens here.
        source: gives the entries.
        max_bytes: of entries that wait or run.
    """

    def __init__(
        self,
        context: Context,
        config: ModelConfig,
        executors: Sequence[Executor],
        statistics: ModelStatistics,
        source: Source,
        max_bytes: int,
    ) -> None:
        self._context = context
        self._clock = context.clock
        self._statistics = statistics
        self._source = source
        self._max_rows = BATCHES_PER_INSTANCE * max(1, config.max_batch_size) * len(executors)
        self._max_bytes = max_bytes
        self._max_queue_size = _max_queue_size(config)
        self._scheduler: Scheduler[InferRequest] = for_config(config.max_batch_size, config.dynamic_batching)
        self.ordered = config.dynamic_batching is not None and config.dynamic_batching.preserve_ordering
        self._pipeline = Pipeline(context, config, executors, statistics, self)
        encoded = context.results.immediate is None
        self._replies = Replies(context.worker, context.fence_ttl, encoded=encoded, topic_ttl=context.topic_fence_ttl)
        self._writer = ResultWriter(context, statistics, self._settle)
        self._entries: dict[str, Entry] = {}
        self._nbytes = 0
        self._followers = self._followers_rows = 0
        self._rows_per_request = 1.0
        self._withheld: dict[int, tuple[Job, list[Terminal]]] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._empty = asyncio.Event()

    # --- state -------------------------------------------------------------------------------------------------------

    @property
    def queued_requests(self) -> int:
        """Requests that wait for a batch."""
        return self._scheduler.depth

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a batch."""
        return self._scheduler.rows

    @property
    def running_rows(self) -> int:
        """Rows in batches that run or are staged."""
        return self._pipeline.running_rows

    @property
    def in_flight(self) -> int:
        """Requests taken in whose answers are not in the store yet, without refused ones."""
        return len(self._entries) + self._followers

    def oldest_published(self) -> float | None:
        """When the oldest request here was published; None without requests."""
        first = next(iter(self._entries.values()), None)
        return None if first is None else first.published or first.enqueued

    def room(self) -> int:
        """How many more requests may be taken in; 0 while the store is failing."""
        if self._context.retry.failing or self._nbytes >= self._max_bytes:
            return 0
        if self._writer.pending > 2 * self._max_rows or self._writer.topics.full:
            return 0
        rows = self._max_rows - self._scheduler.rows - self._pipeline.running_rows - self._followers_rows
        if rows > 0:
            return math.ceil(rows / self._rows_per_request)
        # A bounded queue rejects requests above its bound, so they must be fetched too.
        over = self._max_queue_size + 1 - self._scheduler.depth - self._followers
        return max(0, over) if self._max_queue_size else 0

    def problem(self) -> str:
        """Why no requests should be sent here now; "" where there is no reason."""
        return self._pipeline.problem() or self._writer.topics.problem()

    # --- in ----------------------------------------------------------------------------------------------------------

    def add(self, entry: Entry) -> None:
        """Queue the entry, or answer it with the reason why not. Call `turn` after the last of a group."""
        leader = self._entries.get(entry.ref)
        if leader is None:
            self._lead(entry)
            return
        entry.needs_attempt = True  # the same request again: ask the store before running it twice
        if leader.followers is None:
            leader.followers = collections.deque()
        leader.followers.append(entry)
        self._count(entry, 1)

    def _lead(self, entry: Entry) -> bool:
        """Queue the entry, or answer it with the reason why not; whether it was queued."""
        rejection = self._scheduler.add(entry, entry.enqueued)
        if rejection is None:
            self._entries[entry.ref] = entry
            self._nbytes += entry.nbytes
            self._rows_per_request += 0.1 * (entry.rows - self._rows_per_request)
        elif rejection.reason is not Reject.DRAINING:  # a draining worker leaves the record in the log
            self._reject(entry, rejection)
        return rejection is None

    def _count(self, follower: Entry, sign: int) -> None:
        """An entry that waits for another one takes room like any other."""
        self._followers += sign
        self._followers_rows += sign * follower.rows
        self._nbytes += sign * follower.nbytes

    def _promote_follower(self, leader: Entry) -> bool:
        """Queue the next entry that waited for this one, and let the others wait for that; whether there was one."""
        waiting, leader.followers = leader.followers, None
        while waiting:
            follower = waiting.popleft()
            self._count(follower, -1)
            if self._lead(follower):
                follower.followers, follower.early_followers = waiting, len(waiting)
                return True
        return False

    def refuse(self, entry: Entry, failure: Failure, reason: FailureReason) -> None:
        """Answer an entry with a failure. It may be queued here, but must not be in a batch."""
        now = self._clock()
        self._statistics.failed(reason, now - entry.enqueued)
        self._writer.put([self._replies.of_failure(entry, failure, now)], [entry])

    def answered(self, entries: Sequence[Entry]) -> None:
        """See `Sink.answered`."""
        self._writer.settle_answered(entries)

    def _reject(self, entry: Entry, rejection: Rejection) -> None:
        self._statistics.rejections[rejection.reason.value] += 1
        self.refuse(entry, Failure(rejection.code, rejection.message), FailureReason.REJECTED)

    def cancel(self, cancel: Cancel) -> None:
        """Answer CANCELLED to the runs that it covers, if they are here and have not started.

        Each record is judged by its own stamp: a later run under the same key may wait behind a cancelled one, and a repetition of
        the earlier behind a later one. A follower that it covers leaves when its turn comes, before it runs.
        """
        entry = self._entries.get(cancel.ref)
        if entry is None:
            return
        for follower in entry.followers or ():
            follower.cancelled = follower.cancelled or follower.payload.accepted <= cancel.until
        if entry.payload.accepted > cancel.until:
            return
        if self._scheduler.cancel(cancel.ref) is not None:
            self.refuse(
                entry, Failure(Code.CANCELLED, "the request was cancelled while it waited"), FailureReason.CANCELED
            )
        else:
            entry.cancelled = True
            if entry.job is not None:
                entry.job.withdrawn = True  # the instance's thread gives the batch back if it has not started

    def forget(self, owned: Collection[int]) -> None:
        """Drop queued entries whose partitions now belong to another worker; running batches finish."""
        for entry in list(self._entries.values()):
            self._forget_followers(entry, owned)
            if entry.partition not in owned and self._scheduler.cancel(entry.ref) is not None:
                self._drop(entry)
                self._promote_follower(entry)
        self._update_empty()

    def _forget_followers(self, leader: Entry, owned: Collection[int]) -> None:
        waiting = leader.followers
        if waiting is None or all(follower.partition in owned for follower in waiting):
            return
        for follower in waiting:
            if follower.partition not in owned:
                self._count(follower, -1)
        leader.early_followers = sum(
            follower.partition in owned for follower in itertools.islice(waiting, leader.early_followers)
        )
        leader.followers = collections.deque(follower for follower in waiting if follower.partition in owned)

    # --- the turn ----------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Expire, take, prepare, run; then set the timer for the next decision."""
        scheduler, pipeline, now = self._scheduler, self._pipeline, self._clock()
        for item in scheduler.expire(now):
            self.refuse(cast("Entry", item), _expiry(item.late(now)), FailureReason.REJECTED)
        if scheduler.depth == 0:
            return
        executor = pipeline.free()
        backlog = self._source.backlog() if executor is not None else 0
        while executor is not None and scheduler.depth:
            batch = scheduler.take(now, backlog_rows=backlog, idle=executor.held == 0)
            if batch is None:
                break
            pipeline.start(batch, executor)
            executor = pipeline.free()
        if scheduler.depth:
            self._set_timer(now, backlog, idle=executor is not None and executor.held == 0)

    def _set_timer(self, now: float, backlog: int, *, idle: bool) -> None:
        """One timer. An earlier one stays: an extra turn changes nothing."""
        wake = self._scheduler.wake_at(backlog_rows=backlog, idle=idle)
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
        if failure is None:
            answered = [entry, *self._early_followers(entry)]
            self._statistics.already_answered += len(answered)
            self.answered(answered)
        else:
            reason = FailureReason.CANCELED if failure.code is Code.CANCELLED else FailureReason.REJECTED
            self.refuse(entry, failure, reason)

    def entries_answered(self, entries: Sequence[Entry], answers: list[Terminal]) -> None:
        """See `BatchOwner.entries_answered`."""
        self._writer.put(answers, entries)

    def dead_letter(self, entry: Entry, letter: DeadLetter, failure: Failure) -> None:
        """See `BatchOwner.dead_letter`."""
        self._source.dead_letter(entry, letter, failure)

    def batch_answered(self, job: Job, answers: list[Terminal]) -> None:
        """See `BatchOwner.batch_answered`."""
        self._withheld[job.batch.sequence] = (job, answers)
        self._emit_in_order(job)

    def batch_emptied(self, job: Job) -> None:
        """See `BatchOwner.batch_emptied`."""
        self._withheld[job.batch.sequence] = (job, [])
        self._emit_in_order(job)

    def instance_freed(self) -> None:
        """See `BatchOwner.instance_freed`."""
        self.turn()
        self._source.room_freed()

    def _emit_in_order(self, job: Job) -> None:
        for batch in self._scheduler.completed(job.batch, self._clock()):
            ready, answers = self._withheld.pop(batch.sequence)
            if answers:
                self._writer.put(answers, ready.entries)

    def _early_followers(self, leader: Entry) -> Sequence[Entry]:
        """Entries that waited for this one before it asked the store: the answer that it found there is also theirs."""
        waiting, count, leader.early_followers = leader.followers, leader.early_followers, 0
        followers = [waiting.popleft() for _ in range(count)] if waiting is not None else []
        for follower in followers:
            self._count(follower, -1)
        return followers

    def _settle(self, entries: Sequence[Entry]) -> None:
        """The answers are in the store: the records are done. A repetition that waited for one now finds the answer, or runs."""
        promoted = False
        for entry in entries:
            if self._entries.get(entry.ref) is entry:
                self._drop(entry)
                promoted = self._promote_follower(entry) or promoted
        if promoted:
            self.turn()
        self._update_empty()
        self._source.settled(entries)
        self._source.room_freed()

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.ref]
        self._nbytes -= entry.nbytes
        entry.job = None

    # --- the end -----------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Nothing more will be added: run what is here without waiting for fuller batches."""
        self._scheduler.drain()
        self.turn()

    async def drained(self) -> None:
        """Return once every entry that was added is answered."""
        self._update_empty()
        await self._empty.wait()
        await self._writer.drained()

    def abandon(self) -> None:
        """Stop abruptly, as a crash would: unanswered records are delivered again."""
        self._scheduler.drain()
        self._pipeline.abandon()
        self._writer.abandon()
        if self._timer is not None:
            self._timer.cancel()

    def _update_empty(self) -> None:
        if self._entries:
            self._empty.clear()
        else:
            self._empty.set()


def _expiry(late: bool) -> Failure:
    """Why a request expired: by its caller's deadline, or by the model's queue timeout (Triton's words)."""
    if late:
        return Failure(Code.DEADLINE_EXCEEDED, "the deadline passed while the request waited")
    return Failure(Code.UNAVAILABLE, "Request timeout expired")


def _max_queue_size(config: ModelConfig) -> int:
    """Requests that the model's queue may hold over all its levels; 0 for no bound."""
    batching = config.dynamic_batching
    if batching is None or not config.batching:
        return 0
    own = [policy.max_queue_size for policy in batching.priority_queue_policies.values()]
    others = max(1, batching.priority_levels) - len(own)
    sizes = [*own, batching.default_queue_policy.max_queue_size] if others > 0 else own
    return 0 if 0 in sizes else sum(own) + max(0, others) * batching.default_queue_policy.max_queue_size
