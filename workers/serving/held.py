"""The entries that one lane of a model version holds: from `add` until their answers are in the store.

Invariants: every entry that was added leaves exactly once, through `Source.settled` (its answer is in the store) or `forget` (its
partition is now another worker's); of several entries with one ref only the first is queued, and the others wait for its answer.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
from collections.abc import Collection, Sequence
from typing import Protocol, cast

from protocol.dead_letter import DeadLetter
from protocol.errors import Code
from protocol.messages import Failure, InferRequest
from protocol.model_stats import FailureReason
from protocol.ports import Cancel
from workers.batching.types import Reject, Rejection, Scheduler
from workers.context import Context
from workers.instances.job import Entry
from workers.results.replies import Replies
from workers.results.writer import ResultWriter
from workers.serving.memory import QueueShare
from workers.statistics import ModelStatistics


class Source(Protocol):
    """Where entries come from: `intake.Intake`."""

    def backlog(self) -> int:
        """Records known to be in the log but not fetched yet."""

    def settled(self, entries: Sequence[Entry]) -> None:
        """The answers of these entries are in the store: their records are done."""

    def dead_letter(self, entry: Entry, letter: DeadLetter, failure: Failure) -> None:
        """Publish the letter; then the entry comes back through `Sink.refuse` with the failure."""

    def room_freed(self) -> None:
        """There may be room for more."""


class HeldEntries:
    """The part of a `Sink` that does not depend on how entries run.

    Args:
        context: the model version's.
        statistics: counts what happens here.
        source: gives the entries.
        scheduler: queues them.
        memory: bounds their bytes.
    """

    def __init__(
        self,
        context: Context,
        statistics: ModelStatistics,
        source: Source,
        scheduler: Scheduler[InferRequest],
        memory: QueueShare,
    ) -> None:
        self._context = context
        self._clock = context.clock
        self._statistics = statistics
        self._source = source
        self._scheduler = scheduler
        encoded, topic_ttl = context.results.immediate is None, context.topic_fence_ttl
        self._replies = Replies(context.worker, context.fence_ttl, context.digest, encoded=encoded, topic_ttl=topic_ttl)
        self._writer = ResultWriter(context, statistics, self._settle)
        self._entries: dict[str, Entry] = {}
        self._memory = memory
        self._followers = self._followers_rows = 0
        self._rows_per_request = 1.0
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
    def in_flight(self) -> int:
        """Requests taken in whose answers are not in the store yet, without refused ones."""
        return len(self._entries) + self._followers

    def oldest_published(self) -> float | None:
        """When the oldest request here was published; None without requests."""
        first = next(iter(self._entries.values()), None)
        return None if first is None else first.published or first.enqueued

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
            self._memory.add(entry.nbytes)
            self._rows_per_request += 0.1 * (entry.rows - self._rows_per_request)
        elif rejection.reason is not Reject.DRAINING:  # a draining worker leaves the record in the log
            self._reject(entry, rejection)
        return rejection is None

    def _count(self, follower: Entry, sign: int) -> None:
        """An entry that waits for another one takes room like any other."""
        self._followers += sign
        self._followers_rows += sign * follower.rows
        self._memory.add(sign * follower.nbytes)

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
        answer = self._replies.of_failure(entry, failure, now)
        answer.counts = self._statistics.failed(reason, now - entry.enqueued)
        self._writer.put([answer], [entry])

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
            self._withdraw(entry)

    def _withdraw(self, entry: Entry) -> None:
        """An entry that left the queue is cancelled: it is not run if it has not started."""
        entry.cancelled = True
        if entry.job is not None:
            entry.job.withdrawn = True  # the instance's thread gives the batch back if it has not started

    def forget(self, owned: Collection[int]) -> None:
        """Drop queued entries whose partitions now belong to another worker; running batches finish."""
        for entry in list(self._entries.values()):
            self._forget_followers(entry, owned)
            if entry.partition not in owned and self._gives_up(entry):
                self._drop(entry)
                self._promote_follower(entry)
        self._update_empty()

    def _gives_up(self, entry: Entry) -> bool:
        """Take the entry out of the queue; False if it has begun to run."""
        return self._scheduler.cancel(entry.ref) is not None

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

    def turn(self) -> None:
        """Form the batches that are due."""
        raise NotImplementedError

    def _expire(self, now: float) -> None:
        """Answer queued entries whose time is over."""
        for item in self._scheduler.expire(now):
            self.refuse(cast("Entry", item), _expiry(item.late(now)), FailureReason.REJECTED)

    # --- out ---------------------------------------------------------------------------------------------------------

    def entry_left(self, entry: Entry, failure: Failure | None) -> None:
        """The entry will not run: it is late or cancelled (`failure`), or has its answer already (None)."""
        if failure is None:
            answered = [entry, *self._early_followers(entry)]
            self._statistics.already_answered += len(answered)
            self.answered(answered)
        else:
            reason = FailureReason.CANCELED if failure.code is Code.CANCELLED else FailureReason.REJECTED
            self.refuse(entry, failure, reason)

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
        self._memory.add(-entry.nbytes)
        entry.job = None

    async def drained(self) -> None:
        """Return once every entry that was added is answered."""
        self._update_empty()
        await self._empty.wait()
        await self._writer.drained()

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
