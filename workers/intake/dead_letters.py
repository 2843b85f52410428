"""Gives up records: the dead letter is published, then the sender gets its answer, and only then the record is done.

Invariant: a record is done only after its letter is acknowledged and, where its sender is known, the answer is in the store. Once
the letter is acknowledged the record becomes done whatever else fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from protocol.dead_letter import DeadLetter, DeadReason, class_name
from protocol.errors import Code, described
from protocol.messages import Failure
from protocol.model_stats import FailureReason
from protocol.ports import Record
from protocol.runtime.tasks import BackgroundTasks
from workers.instances.job import Entry
from workers.intake.dead_letter_topic import DeadLetterTopic
from workers.intake.decoder import RecordDecoder
from workers.intake.offsets import OffsetTracker

Undecodable = tuple[Record, int, Exception]
"""A record that cannot be decoded, its token, and why."""

log = structlog.get_logger(__name__)


class DeadLetterQueue:
    """The records of one model version that are being given up.

    Args:
        topic: where the letters go.
        decoder: finds the sender of an undecodable record.
        tracker: of the records.
        tasks: run the publishing.
        refuse: answers an entry with a failure; its record is done after that (`Sink.refuse`).
        on_done: called when records are done without an answer.

    Attributes:
        pending: records whose letters are not acknowledged.
    """

    def __init__(
        self,
        topic: DeadLetterTopic,
        decoder: RecordDecoder,
        tracker: OffsetTracker[int],
        tasks: BackgroundTasks,
        refuse: Callable[[Entry, Failure, FailureReason], None],
        on_done: Callable[[], None],
    ) -> None:
        self.pending = 0
        self._topic = topic
        self._decoder = decoder
        self._tracker = tracker
        self._tasks = tasks
        self._refuse = refuse
        self._on_done = on_done

    def undecodable(self, records: Sequence[Undecodable], now: float) -> None:
        """Give up records that are not requests."""
        self._tasks.spawn(self._give_up_undecodable(records, now))

    def dead_letter(self, entry: Entry, letter: DeadLetter, failure: Failure) -> None:
        """Give up a request; `failure` is its answer."""
        self._tasks.spawn(self._give_up(entry, letter, failure))

    def defective(self, entry: Entry, error: Exception) -> None:
        """Give up a request on which this worker itself failed."""
        log.error("a record could not be handled", request=entry.payload.id, topic=self._decoder.topic, exc_info=error)
        assert entry.record is not None
        letter = DeadLetter(entry.record, DeadReason.DEFECT, described(error), class_name(error))
        message = "the worker failed on this request, which is in the dead letters; the worker's log has the error"
        self.dead_letter(entry, letter, Failure(Code.INTERNAL, message))

    async def _give_up_undecodable(self, records: Sequence[Undecodable], now: float) -> None:
        await self._publish(
            [
                DeadLetter(record, DeadReason.UNDECODABLE, described(error), class_name(error))
                for record, _, error in records
            ]
        )
        for record, token, error in records:
            try:
                entry = self._decoder.sender_of(record, token, now)
            except Exception as exc:
                log.error(
                    "the sender of a record cannot be determined",
                    topic=record.topic,
                    offset=record.offset,
                    exc_info=exc,
                )
                entry = None
            if entry is None:
                self._tracker.done(record.partition, record.offset, token)
            else:
                self._answer(entry, Failure(Code.INVALID_ARGUMENT, described(error)), FailureReason.OTHER)
        self._on_done()

    async def _give_up(self, entry: Entry, letter: DeadLetter, failure: Failure) -> None:
        await self._publish([letter])
        self._answer(entry, failure, FailureReason.BACKEND)

    def _answer(self, entry: Entry, failure: Failure, reason: FailureReason) -> None:
        """Answer the sender; if that fails the record is still done, as its letter is written."""
        try:
            self._refuse(entry, failure, reason)
        except Exception as exc:
            log.error("the sender of a dead letter cannot be answered", request=entry.payload.id, exc_info=exc)
            self._tracker.done(entry.partition, entry.offset, entry.token)
            self._on_done()

    async def _publish(self, letters: Sequence[DeadLetter]) -> None:
        self.pending += len(letters)
        try:
            await self._topic.publish(letters)
        finally:
            self.pending -= len(letters)
