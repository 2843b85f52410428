"""One consumer per model version: fetches, decodes, checks and queues records, and commits those that are done.

Invariants: a record is done exactly when its answer is in the store, was there already, or when its dead letter is acknowledged; a
partition's committed offset never passes a record that is not done; a full worker keeps polling, so that it keeps its membership;
records that may have been delivered before are looked up, in one call, before they are queued.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, Final, TypeVar

import structlog

from protocol.codec import is_json
from protocol.dead_letter import DeadLetter
from protocol.errors import Code, Unavailable
from protocol.messages import Failure
from protocol.model_stats import FailureReason
from protocol.ports import Assigned, Cancel, Consumer, Record
from protocol.runtime.tasks import BackgroundTasks
from protocol.tensors import MANY, ManyElements
from workers.context import Context
from workers.instances.job import Entry
from workers.intake.cancellations import Cancellations
from workers.intake.commits import Commits
from workers.intake.dead_letter_topic import DeadLetterTopic
from workers.intake.dead_letters import DeadLetterQueue, Undecodable
from workers.intake.decoder import RecordDecoder
from workers.intake.offsets import OffsetTracker
from workers.intake.sink import Sink
from workers.statistics import ModelStatistics

T = TypeVar("T")

POLL: Final = 1.0
"""Seconds between polls of a full worker; the broker allows 300."""
IDLE_POLL: Final = 5.0
"""Seconds that one fetch waits for records."""
MAX_FETCH: Final = 512
"""Records of one fetch, which are decoded on the event loop, `SLICE` at a time."""
SLICE: Final = 64
LARGE: Final = 1024 * 1024
"""Bytes of a JSON body above which it is parsed in another thread, like a request with more than `MANY` strings."""

log = structlog.get_logger(__name__)


class Intake:
    """Feeds one runner from one topic; the bus's `Listener` and the runner's `Source`.

    Args:
        context: the model version's.
        decoder: makes entries of this model version's records.
        statistics: counts what happens here.
        digest: of the model version's files.

    Attributes:
        topic: also the group.
        owned: partitions.
        joined: set once partitions were assigned, perhaps none.
        problem: why fetching fails; "" while it does not.
    """

    def __init__(self, context: Context, decoder: RecordDecoder, statistics: ModelStatistics, digest: str = "") -> None:
        self.topic = decoder.topic
        self.owned: frozenset[int] = frozenset()
        self.joined = asyncio.Event()
        self.problem = ""
        self._context = context
        self._decoder = decoder
        self._statistics = statistics
        self._dead_letter_topic = DeadLetterTopic(context, decoder.model, digest, statistics)
        self._tracker: OffsetTracker[int] = OffsetTracker()
        self._commits = Commits(decoder.topic, self._tracker)
        self._background = BackgroundTasks("intake", topic=self.topic)
        self._dead_letters = DeadLetterQueue(
            self._dead_letter_topic, decoder, self._tracker, self._background, self._refuse, self._on_dead_letter_done
        )
        self._cancellations = Cancellations()
        self._ends: dict[int, int] = {}
        """Where each partition ended when it was assigned, until the records below are fetched: they may be repeated."""
        self._leaving: set[int] = set()
        self._refusal: Failure | None = None
        self._paused = False
        self._room_event = asyncio.Event()
        self._sink: Sink | None = None
        self._consumer: Consumer | None = None
        self._loop = asyncio.get_running_loop()

    # --- life --------------------------------------------------------------------------------------------------------

    async def open(self, sink: Sink) -> None:
        """Join the topic's group and feed the runner from now on."""
        context = self._context
        self._sink = sink
        if self.room_freed not in context.retry.on_recovered:
            context.retry.on_recovered.append(self.room_freed)
        await context.results.listen_cancels(context.names.cancel_channel(self.topic), self._on_cancel)
        self._consumer = await context.bus.subscribe(self.topic, self.topic, context.worker, self)
        self._commits.consumer = self._consumer
        self._background.spawn(self._poll())

    def pause(self) -> None:
        """Take nothing more, but keep polling, so that no other worker gets the records that are being finished here."""
        self._paused = True

    def refuse_all(self, failure: Failure) -> None:
        """Answer every further request with this failure."""
        self._refusal = failure
        self.room_freed()

    async def close(self, *, evict: bool = True) -> None:
        """Commit and leave the group.

        Args:
            evict: leave the group at once; False where this worker subscribes again in a moment.
        """
        context = self._context
        if self.room_freed in context.retry.on_recovered:
            context.retry.on_recovered.remove(self.room_freed)
        with contextlib.suppress(Unavailable):
            await context.results.unlisten(context.names.cancel_channel(self.topic))
        await self._background.close()
        await self._commits.close(flush=True)
        if self._consumer is not None:
            await self._consumer.close()
            if evict:
                await self._leave_group()

    def abandon(self) -> None:
        """Stop abruptly, as a crash would."""
        self._paused = True
        self._background.cancel()
        self._commits.abandon()

    async def _leave_group(self) -> None:
        try:
            await self._context.bus.evict(self.topic, [self._context.worker])
        except Unavailable as exc:
            log.warning("could not leave the group; its session must time out", group=self.topic, error=str(exc))

    # --- for the heartbeat -------------------------------------------------------------------------------------------

    @property
    def member(self) -> str:
        """The member id that the coordinator gave; "" before the first join."""
        return "" if self._consumer is None else self._consumer.member

    async def lag(self) -> int:
        """Records in the owned partitions that are not committed."""
        return 0 if self._consumer is None else await self._consumer.lag()

    # --- fetching ----------------------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        while True:
            try:
                await self._poll_once()
                self.problem = ""
            except Exception as exc:
                known = isinstance(exc, Unavailable)
                if str(exc) != self.problem:
                    log.error(
                        "fetching failed; it is retried",
                        topic=self.topic,
                        error=str(exc),
                        exc_info=None if known else exc,
                    )
                self.problem = str(exc) or repr(exc)
                await asyncio.sleep(POLL)

    async def _poll_once(self) -> None:
        assert self._consumer is not None
        room = self._room()
        if room > 0:
            records = await self._consumer.fetch(min(room, MAX_FETCH), IDLE_POLL)
            if records:
                await self._take_in(records)
            self._pass_gaps()
            return
        self._room_event.clear()
        try:
            # Not wait_for: Python 3.11's loses a cancellation that coincides with the event.
            async with asyncio.timeout(POLL):
                await self._room_event.wait()
        except TimeoutError:
            await self._keep_membership()

    def _pass_gaps(self) -> None:
        """Commit past gaps at the end of a log. Only here, where every fetched record has been put in flight."""
        assert self._consumer is not None
        gaps = [self._tracker.advance(number, position) for number, position in self._consumer.positions().items()]
        if any(gaps):
            self._commits.arm()

    def _room(self) -> int:
        assert self._sink is not None
        if self._paused:
            return 0
        if self._refusal is not None:
            return MAX_FETCH if not self._context.retry.failing else 0
        return self._sink.room() - self._dead_letters.pending

    def arrived(self, take: Callable[[int], list[Record]]) -> None:
        """See `Listener.arrived`. Takes what needs no waiting; the poll, which waits meanwhile, takes the rest."""
        room = 0 if self._ends else min(self._room(), SLICE)
        if room > 0:
            self._take_in_messages(take(room))

    def _take_in_messages(self, records: Sequence[Record]) -> None:
        fetched = self._context.clock()
        entries: list[Entry] = []
        for record in records:
            token = self._tracker.add(record.partition, record.offset)
            if token is None:
                continue
            try:
                entries.append(self._decoder.decode_record(record, token, fetched))
            except Exception as exc:  # a defect on one record must not stop the others
                self._dead_letters.undecodable([(record, token, exc)], fetched)
        self._queue(entries)

    async def _keep_membership(self) -> None:
        assert self._consumer is not None
        with contextlib.suppress(Unavailable):
            await self._consumer.fetch(1, 0.0, ())

    async def _meanwhile(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result; polls continue meanwhile."""
        task = self._loop.create_task(coroutine)
        try:
            while not (await asyncio.wait({task}, timeout=POLL))[0]:
                await self._keep_membership()
        finally:
            task.cancel()
        return task.result()

    async def _take_in(self, records: Sequence[Record]) -> None:
        fetched = self._context.clock()
        for start in range(0, len(records), SLICE):
            if start:
                await asyncio.sleep(0)  # lets other models' turns and answers in
            try:
                await self._take_in_slice(records[start : start + SLICE], fetched)
            except (
                Exception
            ) as exc:  # the next slices were also fetched and must be put in flight before a gap is passed
                log.error("a turn failed", topic=self.topic, exc_info=exc)

    async def _take_in_slice(self, records: Sequence[Record], fetched: float) -> None:
        entries: list[Entry] = []
        undecodable: list[Undecodable] = []
        redelivered = False
        for record in records:
            repeated = self._may_be_repeated(record)
            token = self._tracker.add(record.partition, record.offset)
            if token is None:
                continue
            try:
                large = len(record.value) > LARGE and is_json(dict(record.headers).get("content-type"), record.value)
                try:
                    entry = None if large else self._decoder.decode_record(record, token, fetched, MANY)
                except ManyElements:
                    entry = None
                if entry is None:
                    entry = await self._meanwhile(
                        asyncio.to_thread(self._decoder.decode_record, record, token, fetched)
                    )
            except Exception as exc:  # no foreign record may stop the intake
                undecodable.append((record, token, exc))
                continue
            if repeated:
                entry.needs_attempt = redelivered = True
            entries.append(entry)
        if undecodable:
            self._dead_letters.undecodable(undecodable, fetched)
        if redelivered:
            try:
                entries = await self._meanwhile(self._skip_answered(entries))
            except Exception as exc:  # each entry still starts an attempt before it runs
                log.error("looking up redelivered records failed", topic=self.topic, exc_info=exc)
        self._queue(entries)

    def _may_be_repeated(self, record: Record) -> bool:
        """Whether the record was in the log when its partition was assigned."""
        end = self._ends.get(record.partition)
        if end is None:
            return False
        if record.offset + 1 >= end:
            del self._ends[record.partition]
        return record.offset < end

    async def _skip_answered(self, entries: Sequence[Entry]) -> list[Entry]:
        """The entries that are not answered yet; one call for all that may have been delivered before."""
        unsure = [entry for entry in entries if entry.needs_attempt]
        refs = [entry.ref for entry in unsure]
        states = await self._context.retry.call("look", lambda: self._context.results.look(refs))
        answered = [
            entry for entry, state in zip(unsure, states, strict=True) if state is not None and state.state == "done"
        ]
        for entry, state in zip(unsure, states, strict=True):
            entry.run_alone = state is not None and state.state == "running"
        if answered:
            self._statistics.already_answered += len(answered)
            assert self._sink is not None
            self._sink.answered(answered)
        gone = {id(entry) for entry in answered}
        return [entry for entry in entries if id(entry) not in gone]

    def _queue(self, entries: Sequence[Entry]) -> None:
        sink = self._sink
        assert sink is not None
        now = self._context.clock()
        for entry in entries:
            entry.enqueued = now
            if entry.partition not in self.owned:
                continue  # it moved during the look-up, and is delivered again, here or elsewhere
            try:
                self._queue_one(sink, entry)
            except Exception as exc:  # a defect on one record must not stop the others
                self._dead_letters.defective(entry, exc)
        sink.turn()

    def _queue_one(self, sink: Sink, entry: Entry) -> None:
        if entry.problem is not None:
            sink.refuse(entry, entry.problem, FailureReason.OTHER)
        elif self._refusal is not None:
            sink.refuse(entry, self._refusal, FailureReason.OTHER)
        elif self._cancellations.covers(entry.ref, entry.payload.accepted):
            failure = Failure(Code.CANCELLED, "the request was cancelled before it was fetched")
            sink.refuse(entry, failure, FailureReason.CANCELED)
        else:
            sink.add(entry)

    def _on_cancel(self, cancels: list[Cancel]) -> None:
        if self._sink is None:
            return
        now = self._context.clock()
        for cancel in cancels:
            self._sink.cancel(cancel)
            self._cancellations.note(cancel, now)  # even if it is here: its record may be delivered again

    # --- Source: for the runner --------------------------------------------------------------------------------------

    def backlog(self) -> int:
        """See `Source.backlog`."""
        return 0 if self._consumer is None else self._consumer.backlog()

    def settled(self, entries: Sequence[Entry]) -> None:
        """See `Source.settled`."""
        self._commits.done(entries)

    def room_freed(self) -> None:
        """See `Source.room_freed`."""
        self._room_event.set()

    def dead_letter(self, entry: Entry, letter: DeadLetter, failure: Failure) -> None:
        """See `Source.dead_letter`."""
        self._dead_letters.dead_letter(entry, letter, failure)

    def _refuse(self, entry: Entry, failure: Failure, reason: FailureReason) -> None:
        assert self._sink is not None
        self._sink.refuse(entry, failure, reason)

    def _on_dead_letter_done(self) -> None:
        self._commits.arm()
        self.room_freed()

    # --- Listener: for the bus ---------------------------------------------------------------------------------------

    def assigned(self, epoch: int, partitions: Sequence[Assigned]) -> None:
        """See `Listener.assigned`. Entries of partitions that did not come back are now another worker's."""
        for entry in partitions:
            self._tracker.assign(entry.partition, epoch, entry.committed)
            lost = self._tracker.deleted(entry.partition, entry.start)
            if lost is not None:
                self._background.spawn(self._note_loss(entry.partition, *lost, entry.start))
            if entry.end > entry.committed:
                self._ends[entry.partition] = entry.end
        self.owned = (self.owned - self._leaving) | {entry.partition for entry in partitions}
        for partition in self._ends.keys() - self.owned:
            del self._ends[partition]
        self._leaving.clear()
        self.joined.set()
        log.info("partitions assigned", topic=self.topic, epoch=epoch, partitions=sorted(self.owned))
        if self._sink is not None:
            self._sink.forget(self.owned)
        self._commits.arm()

    async def _note_loss(self, partition: int, first: int, token: int, start: int) -> None:
        """No commit passes records that were deleted unread before the note of the loss is acknowledged."""
        await self._dead_letter_topic.note_loss(self.topic, partition, first, start)
        self._tracker.done(partition, first, token)
        self._commits.arm()

    def revoked(self, partitions: Collection[int]) -> None:
        """See `Listener.revoked`. Nothing is dropped until it is known which partitions come back."""
        for partition in partitions:
            self._tracker.revoke(partition)
        self._leaving.update(partitions)
