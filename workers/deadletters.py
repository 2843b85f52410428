"""Records that cannot be served go to the model's dead topic, byte for byte, with the evidence in headers beside their own.

The headers are ours (`dead-*`) and Kafka Connect's (`__connect.errors.*`), which tools for dead letters read; all are UTF-8 text.
Invariant: value, key and own headers are the original's, but for a record that Kafka takes from others and not from us (over
`MAX_RECORD`, or with something in it that our client does not write): its letter has the evidence alone. A letter may be written
twice (a crash in between), never half.
"""

from __future__ import annotations

import dataclasses
import enum
import signal
from collections.abc import Sequence
from typing import Final

import structlog

from protocol.errors import FleetError, NotFound, TooLarge
from protocol.ports import OutRecord, Record
from workers.context import Context
from workers.statistics import ModelStatistics

MAX_ERROR: Final = 4096
"""Bytes of the error's text: it may quote what a stranger sent."""
MAX_MATES: Final = 64
LEFT_OUT: Final = "dead-left-out"
"""The header that says that a letter is the evidence alone, and of how many bytes."""

log = structlog.get_logger(__name__)


class Reason(enum.StrEnum):
    """Why a record is here: the header `dead-reason` and the label of the metric."""

    UNDECODABLE = "undecodable"
    """It is not a request."""
    POISON = "poison"
    """Instances die of it."""
    HUNG = "hung"
    """Instances hang with it."""
    ATTEMPTS = "attempts"
    """It was begun too often, and no worker lived to answer it."""
    DEFECT = "defect"
    """The worker itself went wrong on it."""
    LOST = "lost"
    """Records were deleted unread; the letter is a note without a value."""


_STAGES: Final = {
    Reason.UNDECODABLE: "VALUE_CONVERTER",
    Reason.POISON: "TASK_PUT",
    Reason.HUNG: "TASK_PUT",
    Reason.ATTEMPTS: "TASK_PUT",
    Reason.DEFECT: "TASK_PUT",
    Reason.LOST: "KAFKA_CONSUME",
}
"""In Kafka Connect's words (`org.apache.kafka.connect.runtime.errors.Stage`)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Letter:
    """A record and what is known of its end.

    Attributes:
        record: as it was fetched.
        reason: see `Reason`.
        error: a sentence.
        exception: its class, with the module.
        signal: the number of the signal that ended the instance, where one did.
        attempts: runs that died with it.
        mates: ids of the others in its batch.
    """

    record: Record
    reason: Reason
    error: str
    exception: str
    signal: int | None = None
    attempts: int = 0
    mates: Sequence[str] = ()


class DeadLetters:
    """The dead topic of one model.

    Args:
        context: the worker's.
        model: whose.
        digest: of the model version's files.
        statistics: counts the letters.
    """

    def __init__(self, context: Context, model: str, digest: str, statistics: ModelStatistics) -> None:
        self.topic = context.names.dead_topic(model)
        self._context = context
        self._digest = digest
        self._statistics = statistics

    async def bury(self, letters: Sequence[Letter]) -> None:
        """Publish the letters; returns once they are acknowledged, however long that takes."""
        if not await self._publish(letters):
            for letter in letters:
                if not await self._publish([letter]):
                    await self._publish([letter], bare=True)
        for letter in letters:
            self._statistics.dead_letters[letter.reason.value] += 1
        first = letters[0]
        log.warning(
            "records moved to the dead letters", topic=self.topic, records=len(letters), partition=first.record.partition,
            offset=first.record.offset, reason=first.reason.value, error=first.error,
        )  # fmt: skip

    async def note_loss(self, topic: str, partition: int, committed: int, start: int) -> None:
        """Leave a note that records were deleted from the log before anybody read them."""
        lost = start - committed
        self._statistics.lost += lost
        error = (
            f"{lost} records of {topic}-{partition} from offset {committed} were deleted unread; retention is too short"
        )
        log.error("records were lost", topic=topic, partition=partition, lost=lost, committed=committed, start=start)
        record = Record(topic, partition, committed, 0.0, b"", ())
        await self._publish([Letter(record, Reason.LOST, error, "")], bare=True)
        self._statistics.dead_letters[Reason.LOST.value] += 1

    def _record(self, letter: Letter) -> OutRecord:
        record = letter.record
        value = record.value if isinstance(record.value, bytes) else bytes(record.value)
        return OutRecord(value, [*record.headers, *self._evidence(letter)], record.key)

    def _bare(self, letter: Letter) -> OutRecord:
        """The evidence alone, for a record that cannot be written by us; it stays at its place until retention."""
        record = letter.record
        size = len(record.value) + len(record.key or b"")
        size += sum(len(name) + len(value or b"") for name, value in record.headers)
        left_out = [(LEFT_OUT, f"{size} bytes of value, key and headers")] if size else []
        return OutRecord(b"", self._evidence(letter, *left_out))

    def _evidence(self, letter: Letter, *more: tuple[str, str]) -> list[tuple[str, bytes | None]]:
        told = (*evidence_of(letter, self._context.worker, self._digest), *more)
        return [(name, text.encode(errors="replace")) for name, text in told]

    async def _publish(self, letters: Sequence[Letter], *, bare: bool = False) -> bool:
        """Whether they are there; False where they cannot be written as they are, which no patience changes."""
        context = self._context

        async def publish() -> bool:
            try:
                records = [self._bare(letter) if bare else self._record(letter) for letter in letters]
                try:
                    await context.bus.publish(self.topic, records)
                except NotFound:
                    await context.bus.ensure_topic(self.topic, 1)
                    await context.bus.publish(self.topic, records)
            except TooLarge:
                return False
            except FleetError:
                raise
            except Exception as exc:  # what a stranger wrote that our client does not write
                if bare:
                    raise
                log.warning("a dead letter cannot be written as it is", topic=self.topic, exc_info=exc)
                return False
            return True

        return await context.patience.call("publish dead letters", publish)


def evidence_of(letter: Letter, worker: str, digest: str) -> list[tuple[str, str]]:
    """The headers that are added to the record's own."""
    record, error = letter.record, _cut(letter.error)
    partition, offset = str(record.partition), str(record.offset)
    died = [("dead-signal", signal_name(letter.signal))] if letter.signal is not None else []
    return [
        ("dead-reason", letter.reason.value),
        ("dead-error", error),
        *died,
        ("dead-attempts", str(letter.attempts)),
        ("dead-worker", worker),
        ("dead-model-digest", digest),
        ("dead-batch", ",".join([mate.replace(",", "%2C") for mate in letter.mates[:MAX_MATES]])),
        ("dead-topic", record.topic),
        ("dead-partition", partition),
        ("dead-offset", offset),
        ("dead-timestamp", str(round(record.timestamp * 1000))),
        ("__connect.errors.topic", record.topic),
        ("__connect.errors.partition", partition),
        ("__connect.errors.offset", offset),
        ("__connect.errors.stage", _STAGES[letter.reason]),
        ("__connect.errors.exception.class.name", letter.exception),
        ("__connect.errors.exception.message", error),
    ]


def signal_name(number: int) -> str:
    """`SIGSEGV` for 11; the number where it has no name here."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def class_name(error: BaseException) -> str:
    """The error's class with its module."""
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}"


def _cut(text: str) -> str:
    """At most `MAX_ERROR` bytes of UTF-8, not cut within a character."""
    return text.encode(errors="replace")[:MAX_ERROR].decode(errors="ignore")
