"""What happened in a run, as seen from outside: the judge's only input. Pure.

All times are seconds since the epoch on Redis' clock. Every record is plain data, so a history can be saved, hashed and, in tests,
constructed.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from typing import Any

import orjson

from penstock.verify.plan.plan import CallKind


class CallEnd(enum.StrEnum):
    """The result of one caller's call."""

    ANSWER = "answer"
    ERROR = "error"
    """The gateway answered with an error."""
    LOST = "lost"
    """The connection broke, and the result is unknown."""
    SILENT = "silent"
    """The connection held, and no answer came in time."""
    OPEN = "open"
    """Accepted, and still pending at the end of the run."""


@dataclasses.dataclass(slots=True)
class ObservedCall:
    """One caller's call.

    Attributes:
        number: the input that it sent.
        ref: the request's name as the gateway gave it, or "".
        at: when it ended.
        sent: when it began.
        status: the HTTP status, or 0.
        answer, run: the model's two outputs, if there was an answer.
        accepted: it had received a 202.
        cancelled_at: when the fleet confirmed its cancellation, or 0.
    """

    number: int
    kind: CallKind
    ref: str
    end: CallEnd
    at: float
    sent: float
    status: int = 0
    text: str = ""
    answer: int | None = None
    run: int | None = None
    accepted: bool = False
    cancelled_at: float = 0.0


@dataclasses.dataclass(slots=True)
class LogRecord:
    """A record of an infer topic, read raw.

    Attributes:
        ref: from its headers, or "".
        number: its input; None if it cannot be read.
        accepted, deadline: from its headers, or 0.
        digest: of its value.
    """

    topic: str
    partition: int
    offset: int
    ref: str
    number: int | None
    accepted: float
    deadline: float
    digest: str
    at: float = 0.0


@dataclasses.dataclass(slots=True)
class ProducedRecord:
    """A record that the run wrote to Kafka, acknowledged by all replicas. `number` is negative for garbage."""

    number: int
    kind: CallKind
    ref: str
    topic: str
    partition: int
    offset: int
    digest: str


@dataclasses.dataclass(slots=True)
class DeadRecord:
    """A dead letter, read raw. Topic, partition and offset are the original record's, from the letter's headers."""

    topic: str
    partition: int
    offset: int
    digest: str
    reason: str


@dataclasses.dataclass(slots=True)
class StreamState:
    """The content of a request's result stream at a moment, read raw.

    Attributes:
        terminal: it has a terminal entry, and refuses any other.
        answer, run: from the payload, if it exists and is not an error.
        error: the payload's error code, or "".
        claimed: when the call that claimed the stream was accepted; 0 for a plain call.
    """

    ref: str
    at: float
    terminal: bool
    answer: int | None = None
    run: int | None = None
    error: str = ""
    claimed: float = 0.0


@dataclasses.dataclass(slots=True)
class CommittedRecord:
    """A record below a committed offset, with its state right after that offset was read."""

    topic: str
    partition: int
    offset: int
    at: float
    terminal: bool
    dead: bool
    claimed: float = 0.0


@dataclasses.dataclass(slots=True)
class OffsetSample:
    """Committed offsets, log ends and log starts at one moment, by `topic/partition`; starts were read before the offsets."""

    at: float
    committed: dict[str, int]
    ends: dict[str, int]
    starts: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def lag(self) -> int:
        """The number of records that are not committed."""
        return sum(max(0, end - self.committed.get(place, 0)) for place, end in self.ends.items())


@dataclasses.dataclass(slots=True)
class Execution:
    """One execution, as the model recorded it: `run` is its random number."""

    number: int
    run: int
    at: float
    pid: int


@dataclasses.dataclass(slots=True)
class InjectedFault:
    """One fault as it was injected.

    Attributes:
        began, ended: when it began and was undone.
        pids: the processes that it affected.
        note: why it was left out, or "".
        loses: the store lost data.
        hit: when a kill's signal was sent; 0 for other faults.
    """

    kind: str
    target: str
    began: float
    ended: float
    pids: tuple[int, ...] = ()
    note: str = ""
    loses: bool = False
    hit: float = 0.0


@dataclasses.dataclass(slots=True)
class MemorySample:
    """The resident memory of one process at one moment, in bytes."""

    at: float
    member: str
    pid: int
    rss: int


@dataclasses.dataclass(slots=True, repr=False)  # asyncio builds the repr of a run's result, which takes seconds
class History:
    """Everything that was recorded of a run.

    Attributes:
        store_bytes: the size of the run's keys in Redis at its end; None if not measured.
        quiet_at: when the last fault and the last call were over.
        settle: seconds that the lag may take to reach zero after that.
    """

    seen: list[ObservedCall] = dataclasses.field(default_factory=list)
    produced: list[ProducedRecord] = dataclasses.field(default_factory=list)
    logged: list[LogRecord] = dataclasses.field(default_factory=list)
    dead: list[DeadRecord] = dataclasses.field(default_factory=list)
    stored: list[StreamState] = dataclasses.field(default_factory=list)
    passed: list[CommittedRecord] = dataclasses.field(default_factory=list)
    samples: list[OffsetSample] = dataclasses.field(default_factory=list)
    runs: list[Execution] = dataclasses.field(default_factory=list)
    faults: list[InjectedFault] = dataclasses.field(default_factory=list)
    memory: list[MemorySample] = dataclasses.field(default_factory=list)
    store_bytes: int | None = None
    store_version: str = ""
    quiet_at: float = 0.0
    settle: float = 60.0

    def plain(self) -> dict[str, Any]:
        """The history as plain data for JSON."""
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """SHA-256 of the history."""
        return hashlib.sha256(orjson.dumps(self.plain(), option=orjson.OPT_SORT_KEYS)).hexdigest()


def digest(value: bytes) -> str:
    """A digest that stands for a record's value."""
    return hashlib.sha256(value).hexdigest()[:32]
