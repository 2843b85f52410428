"""Dead letters on the wire: why a record was given up, and the headers that say so. Pure.

The headers are ours (`dead-*`) and Kafka Connect's (`__connect.errors.*`), which tools for dead letters read; all are UTF-8 text.
"""

from __future__ import annotations

import dataclasses
import enum
import signal
from collections.abc import Sequence
from typing import Final

from protocol.ports import Record

MAX_ATTEMPTS: Final = 3
"""Runs that may die with a request in them before its record becomes a dead letter, where nothing else is set."""
MAX_ERROR: Final = 4096
"""Bytes of the error's text: it may quote what a stranger sent."""
MAX_MATES: Final = 64
LEFT_OUT: Final = "dead-left-out"
"""The header of a letter that is the evidence alone: of how many bytes."""


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
    """The error's class with its module, or what the class itself calls it (`wire_name`): modules move, and letters stay."""
    kind = type(error)
    named = getattr(kind, "wire_name", None)
    if isinstance(named, str):
        return named
    return f"{kind.__module__}.{kind.__qualname__}"


def _cut(text: str) -> str:
    """At most `MAX_ERROR` bytes of UTF-8, not cut within a character."""
    return text.encode(errors="replace")[:MAX_ERROR].decode(errors="ignore")
