"""Dead letters on the wire: why a record was given up, and the headers that carry the evidence. Pure.

A dead letter is the original record with evidence headers after its own: ours (`dead-*`), and Kafka Connect's
(`__connect.errors.*`), which tools for dead letter queues read. All are UTF-8 text. No other module names these headers or reasons.

Invariants: `split_headers` inverts what the writer appends, whatever headers the original had; reading never fails, even if an
evidence header is missing, null or invalid.
"""

from __future__ import annotations

import dataclasses
import enum
import signal
from collections.abc import Sequence
from typing import Final

from protocol.ports import Headers, Record

MAX_ATTEMPTS: Final = 3
"""Default number of runs of a request that may die before its record becomes a dead letter."""
MAX_ERROR: Final = 4096
"""Bytes of the error's text, which may quote a caller's input."""
MAX_BATCH_IDS: Final = 64

DEAD_REASON: Final = "dead-reason"
"""The first evidence header: the original's headers end before it."""
DEAD_ERROR: Final = "dead-error"
DEAD_SIGNAL: Final = "dead-signal"
DEAD_ATTEMPTS: Final = "dead-attempts"
DEAD_WORKER: Final = "dead-worker"
DEAD_MODEL_DIGEST: Final = "dead-model-digest"
DEAD_BATCH: Final = "dead-batch"
DEAD_TOPIC: Final = "dead-topic"
DEAD_PARTITION: Final = "dead-partition"
DEAD_OFFSET: Final = "dead-offset"
DEAD_TIMESTAMP: Final = "dead-timestamp"
DEAD_LEFT_OUT: Final = "dead-left-out"
"""How many bytes of value, key and headers the letter lacks; only where it consists of the evidence alone."""
EVIDENCE_HEADERS: Final = frozenset(
    {
        DEAD_REASON, DEAD_ERROR, DEAD_SIGNAL, DEAD_ATTEMPTS, DEAD_WORKER, DEAD_MODEL_DIGEST, DEAD_BATCH, DEAD_TOPIC,
        DEAD_PARTITION, DEAD_OFFSET, DEAD_TIMESTAMP, DEAD_LEFT_OUT,
    }
)  # fmt: skip
CONNECT: Final = "__connect.errors."
"""Prefix of Kafka Connect's headers, which repeat the evidence."""

REDRIVEN: Final = "redriven"
"""Of a note in the dead topic that a letter was sent again: the ref of the first request."""
REDRIVEN_AS: Final = "redriven-as"
"""Of such a note: the id under which the request was sent."""
REDRIVE_OF: Final = "redrive-of"
"""Of a request that was a dead letter: the id that it had."""

HeaderPairs = tuple[tuple[str, bytes | None], ...]


class DeadReason(enum.StrEnum):
    """Why a record was given up: the header `dead-reason` and the label of the metric."""

    UNDECODABLE = "undecodable"
    """It is not a request."""
    POISON = "poison"
    """Instances die of it."""
    ATTEMPTS = "attempts"
    """It was started too often, and no worker lived to answer it."""
    HUNG = "hung"
    """Instances hang with it."""
    DEFECT = "defect"
    """The worker itself failed on it."""
    LOST = "lost"
    """Records were deleted unread; the letter is a note without a value."""


REASONS: Final = tuple(reason.value for reason in DeadReason)
UNKNOWN: Final = "unknown"
"""The reason of a letter whose header `dead-reason` is none of `REASONS`."""

_STAGES: Final = {
    DeadReason.UNDECODABLE: "VALUE_CONVERTER",
    DeadReason.POISON: "TASK_PUT",
    DeadReason.ATTEMPTS: "TASK_PUT",
    DeadReason.HUNG: "TASK_PUT",
    DeadReason.DEFECT: "TASK_PUT",
    DeadReason.LOST: "KAFKA_CONSUME",
}
"""Kafka Connect's `org.apache.kafka.connect.runtime.errors.Stage` by reason."""


# --- writing ---


@dataclasses.dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record to give up, and the evidence.

    Attributes:
        record: as it was fetched.
        reason: see `DeadReason`.
        error: a sentence.
        exception: the error's class, with its module (`class_name`).
        signal: number of the signal that ended the instance, if one did.
        attempts: runs that died with it.
        batch_ids: ids of the other requests in its batch.
    """

    record: Record
    reason: DeadReason
    error: str
    exception: str
    signal: int | None = None
    attempts: int = 0
    batch_ids: Sequence[str] = ()


def encode_evidence(letter: DeadLetter, worker: str, digest: str) -> list[tuple[str, str]]:
    """The headers to append to the record's own."""
    record, error = letter.record, _cut(letter.error)
    partition, offset = str(record.partition), str(record.offset)
    died = [(DEAD_SIGNAL, signal_name(letter.signal))] if letter.signal is not None else []
    return [
        (DEAD_REASON, letter.reason.value),
        (DEAD_ERROR, error),
        *died,
        (DEAD_ATTEMPTS, str(letter.attempts)),
        (DEAD_WORKER, worker),
        (DEAD_MODEL_DIGEST, digest),
        (DEAD_BATCH, ",".join([other.replace(",", "%2C") for other in letter.batch_ids[:MAX_BATCH_IDS]])),
        (DEAD_TOPIC, record.topic),
        (DEAD_PARTITION, partition),
        (DEAD_OFFSET, offset),
        (DEAD_TIMESTAMP, str(round(record.timestamp * 1000))),
        (f"{CONNECT}topic", record.topic),
        (f"{CONNECT}partition", partition),
        (f"{CONNECT}offset", offset),
        (f"{CONNECT}stage", _STAGES[letter.reason]),
        (f"{CONNECT}exception.class.name", letter.exception),
        (f"{CONNECT}exception.message", error),
    ]


def signal_name(number: int) -> str:
    """`SIGSEGV` for 11; the number itself if this platform has no name for it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def class_name(error: BaseException) -> str:
    """The error's class with its module, or the class's own `wire_name`: letters outlive a move of the module."""
    kind = type(error)
    named = getattr(kind, "wire_name", None)
    if isinstance(named, str):
        return named
    return f"{kind.__module__}.{kind.__qualname__}"


def _cut(text: str) -> str:
    """At most `MAX_ERROR` bytes of UTF-8, not cut within a character."""
    return text.encode(errors="replace")[:MAX_ERROR].decode(errors="ignore")


# --- reading ---


def is_evidence(name: str) -> bool:
    """Whether workers write a header of this name."""
    return name in EVIDENCE_HEADERS or name.startswith(CONNECT)


def split_headers(headers: Headers) -> tuple[HeaderPairs, HeaderPairs]:
    """The original's headers, and the evidence after them.

    The original may have had headers of the same names, so the evidence begins at the last `dead-reason`. If a header that is not
    evidence follows it, a worker of another version wrote the letter: then every header with an evidence name counts as evidence.
    """
    pairs = tuple((name, value) for name, value in headers)
    start = max((index for index, (name, _) in enumerate(pairs) if name == DEAD_REASON), default=len(pairs))
    if all(is_evidence(name) for name, _ in pairs[start:]) and start < len(pairs):
        return pairs[:start], pairs[start:]
    return tuple(p for p in pairs if not is_evidence(p[0])), tuple(p for p in pairs if is_evidence(p[0]))


def decode_evidence(evidence: HeaderPairs) -> dict[str, str]:
    """The evidence as text, by header name."""
    return {name: (value or b"").decode(errors="replace") for name, value in evidence}


@dataclasses.dataclass(frozen=True, slots=True)
class DeadHeaders:
    """The headers of a dead letter, read.

    Attributes:
        original: the original record's headers, in their order.
        evidence: see `decode_evidence`.
    """

    original: HeaderPairs
    evidence: dict[str, str]

    @property
    def reason(self) -> str:
        """Why the record was given up: one of `REASONS`, or `UNKNOWN`."""
        text = self.evidence.get(DEAD_REASON, "")
        return text if text in REASONS else UNKNOWN

    @property
    def error(self) -> str:
        """What is wrong, as a sentence; "" if no header has it."""
        text = self.evidence.get(DEAD_REASON, "")
        return self.evidence.get(DEAD_ERROR) or ("" if text in REASONS else text)

    @property
    def topic(self) -> str:
        """The original topic; "" if unknown."""
        return self.evidence.get(DEAD_TOPIC) or self.evidence.get(f"{CONNECT}topic", "")

    @property
    def source(self) -> tuple[int, int] | None:
        """(partition, offset) of the original record."""
        partition = self._number(DEAD_PARTITION, f"{CONNECT}partition")
        offset = self._number(DEAD_OFFSET, f"{CONNECT}offset")
        return None if partition is None or offset is None else (partition, offset)

    @property
    def timestamp(self) -> str:
        """Of the original record, in milliseconds, as the header has it."""
        return self.evidence.get(DEAD_TIMESTAMP, "")

    @property
    def left_out(self) -> str:
        """What was too large to be written again; "" if the letter is whole."""
        return self.evidence.get(DEAD_LEFT_OUT, "")

    @property
    def attempts(self) -> int | None:
        """Runs that died with it."""
        return self._number(DEAD_ATTEMPTS)

    @property
    def worker(self) -> str:
        """The worker that gave it up."""
        return self.evidence.get(DEAD_WORKER, "")

    @property
    def model_digest(self) -> str | None:
        """The digest of the model version's files that ran."""
        return self.evidence.get(DEAD_MODEL_DIGEST)

    @property
    def signal(self) -> str:
        """The signal that ended the instance's process, as `SIGSEGV`; "" if none did."""
        return self.evidence.get(DEAD_SIGNAL, "")

    @property
    def batch_ids(self) -> tuple[str, ...]:
        """The ids of the other requests in its batch."""
        return tuple(name.replace("%2C", ",") for name in self.evidence.get(DEAD_BATCH, "").split(",") if name)

    def _number(self, *names: str) -> int | None:
        for name in names:
            text = self.evidence.get(name, "")
            if text.isascii() and text.isdigit() and len(text) <= 18:
                return int(text)
        return None
