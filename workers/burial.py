"""The end of records that are not answered by the model: to the dead letters, then their senders are told, and only then done.

Invariant: a record is done only after its letter is acknowledged and, where its sender can be told, the answer is in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from protocol.errors import Code, FleetError
from protocol.messages import Failure
from protocol.ports import Record
from workers.deadletters import DeadLetters, Letter, Reason, class_name
from workers.entries import Entry
from workers.offsets import OffsetTracker
from workers.reading import Reader
from workers.statistics import Reason as FailureReason

Hopeless = tuple[Record, int, Exception]
"""A record that cannot be read, its token, and why."""


class Answering(Protocol):
    """Who tells the senders: the runner."""

    def refuse(self, entry: Entry, failure: Failure, reason: FailureReason) -> None:
        """Answer the entry with a failure; its record is done after that."""


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
        self.answering: Answering | None = None
        self._letters = letters
        self._reader = reader
        self._tracker = tracker
        self._spawn = spawn
        self._on_done = on_done

    def unreadable(self, hopeless: Sequence[Hopeless], now: float) -> None:
        """Bury what is no request."""
        self._spawn(self._bury_unreadable(hopeless, now))

    def bury(self, entry: Entry, letter: Letter, failure: Failure) -> None:
        """Bury a request that was read; `failure` is its answer."""
        self._spawn(self._bury(entry, letter, failure))

    async def _bury_unreadable(self, hopeless: Sequence[Hopeless], now: float) -> None:
        await self._publish(
            [Letter(record, Reason.UNDECODABLE, _text(error), class_name(error)) for record, _, error in hopeless]
        )
        assert self.answering is not None
        for record, token, error in hopeless:
            entry = self._reader.addressee(record, token, now)
            if entry is None:
                self._tracker.done(record.partition, record.offset, token)
            else:
                self.answering.refuse(entry, Failure(Code.INVALID_ARGUMENT, _text(error)), FailureReason.OTHER)
        self._on_done()

    async def _bury(self, entry: Entry, letter: Letter, failure: Failure) -> None:
        await self._publish([letter])
        assert self.answering is not None
        self.answering.refuse(entry, failure, FailureReason.BACKEND)

    async def _publish(self, letters: Sequence[Letter]) -> None:
        self.pending += len(letters)
        try:
            await self._letters.bury(letters)
        finally:
            self.pending -= len(letters)


def _text(error: Exception) -> str:
    return error.message if isinstance(error, FleetError) else f"{type(error).__name__}: {error}"
