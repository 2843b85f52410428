"""The end of records that are not answered by the model: to the dead letters, then their senders are told, and only then done.

Invariant: a record is done only after its letter is acknowledged and, where its sender can be told, the answer is in the store;
and after its letter it is done, whatever goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from protocol.dead_letter import DeadLetter, DeadReason, class_name
from protocol.errors import Code, described
from protocol.messages import Failure
from protocol.ports import Record
from workers.instances.job import Entry
from workers.intake.dead_letter_topic import DeadLetters
from workers.intake.decoder import Reader
from workers.intake.offsets import OffsetTracker
from workers.intake.sink import Sink
from workers.statistics import FailureReason

Hopeless = tuple[Record, int, Exception]
"""A record that cannot be read, its token, and why."""

log = structlog.get_logger(__name__)


class Burial:
    """Burials of one model version's records.

    Args:
        letters: where they go.
        reader: finds out who sent an unreadable record.
        tracker: of the records.
        spawn: runs a coroutine as a task of the intake.
        on_done: called when records were done without an answer.

    Attributes:
        pending: records that are on their way.
        answering: set once it is there.
    """

    def __init__(
        self,
        letters: DeadLetters,
        reader: Reader,
        tracker: OffsetTracker[int],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        on_done: Callable[[], None],
    ) -> None:
        self.pending = 0
        self.answering: Sink | None = None
        self._letters = letters
        self._reader = reader
        self._tracker = tracker
        self._spawn = spawn
        self._on_done = on_done

    def unreadable(self, hopeless: Sequence[Hopeless], now: float) -> None:
        """Bury what is no request."""
        self._spawn(self._bury_unreadable(hopeless, now))

    def bury(self, entry: Entry, letter: DeadLetter, failure: Failure) -> None:
        """Bury a request that was read; `failure` is its answer."""
        self._spawn(self._bury(entry, letter, failure))

    def defective(self, entry: Entry, error: Exception) -> None:
        """Bury a request that this worker went wrong on, so that its record ends."""
        log.error("a record could not be handled", request=entry.payload.id, topic=self._reader.topic, exc_info=error)
        assert entry.record is not None
        letter = DeadLetter(entry.record, DeadReason.DEFECT, described(error), class_name(error))
        told = "the worker went wrong on this request, which is in the dead letters; its log says how"
        self._spawn(self._bury(entry, letter, Failure(Code.INTERNAL, told)))

    async def _bury_unreadable(self, hopeless: Sequence[Hopeless], now: float) -> None:
        await self._publish(
            [
                DeadLetter(record, DeadReason.UNDECODABLE, described(error), class_name(error))
                for record, _, error in hopeless
            ]
        )
        for record, token, error in hopeless:
            try:
                entry = self._reader.addressee(record, token, now)
            except Exception as exc:
                log.error(
                    "who sent a record cannot be found out", topic=record.topic, offset=record.offset, exc_info=exc
                )
                entry = None
            if entry is None:
                self._tracker.done(record.partition, record.offset, token)
            else:
                self._refuse(entry, Failure(Code.INVALID_ARGUMENT, described(error)), FailureReason.OTHER)
        self._on_done()

    async def _bury(self, entry: Entry, letter: DeadLetter, failure: Failure) -> None:
        await self._publish([letter])
        self._refuse(entry, failure, FailureReason.BACKEND)

    def _refuse(self, entry: Entry, failure: Failure, reason: FailureReason) -> None:
        """Tell its sender; a record whose sender cannot be told is done, as its letter is there."""
        assert self.answering is not None
        try:
            self.answering.refuse(entry, failure, reason)
        except Exception as exc:
            log.error("the sender of a dead letter cannot be told", request=entry.payload.id, exc_info=exc)
            self._tracker.done(entry.partition, entry.offset, entry.token)
            self._on_done()

    async def _publish(self, letters: Sequence[DeadLetter]) -> None:
        self.pending += len(letters)
        try:
            await self._letters.bury(letters)
        finally:
            self.pending -= len(letters)
