"""What happened in a run, as the outside saw it: the judge's only input. Pure.

All times are seconds since the epoch on Redis' clock. Every record is plain data, so a history can be written down, digested and,
in tests, made up.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from typing import Any

import orjson

from penstock.verify.plan.plan import CallKind


class CallEnd(enum.StrEnum):
    """How one caller's call ended."""

    ANSWER = "answer"
    ERROR = "error"
    """The gateway said why."""
    LOST = "lost"
    """The connection broke: the caller knows nothing."""
    SILENT = "silent"
    """The connection held, and nothing came for longer than the call may take."""
    OPEN = "open"
    """Accepted, and still without an end when the run was over."""


@dataclasses.dataclass(slots=True)
class ObservedCall:
    """One caller's call.

    Attributes:
        number: the input it sent.
        ref: the request, as the gateway named it; "" where it never did.
        at: when it ended.
        sent: when it began.
        status: HTTP's, 0 where none came.
        answer, run: the model's two outputs, where there was an answer.
        accepted: it was told 202 before.
        cancelled_at: when the fleet confirmed that it is cancelled; 0 for never.
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
        ref: from its headers; "" where it names none.
        number: its input; None where it cannot be read.
        accepted, deadline: from its headers, 0 where they are not there.
        digest: of the value.
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
    """A record that the run itself wrote to Kafka, acknowledged by all replicas. `number` is negative for garbage."""

    number: int
    kind: CallKind
    ref: str
    topic: str
    partition: int
    offset: int
    digest: str


@dataclasses.dataclass(slots=True)
class DeadRecord:
    """A dead letter, read raw. Where it came from is what its headers say."""

    topic: str
    partition: int
    offset: int
    digest: str
    reason: str


@dataclasses.dataclass(slots=True)
class StreamState:
    """What a request's result stream held at a moment, read raw.

    Attributes:
        terminal: the stream refuses every further entry.
        answer, run: of the payload, where it is still there and no error.
        error: the payload's code, "" for none.
        claimed: when the call that holds the stream was accepted; 0 for a plain one.
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
    """A record below a committed offset, with what was found of it right after that commit had been read."""

    topic: str
    partition: int
    offset: int
    at: float
    terminal: bool
    dead: bool
    claimed: float = 0.0


@dataclasses.dataclass(slots=True)
class OffsetSample:
    """Committed offsets, log ends and log starts of one moment, by `topic/partition`; starts were read before the offsets."""

    at: float
    committed: dict[str, int]
    ends: dict[str, int]
    starts: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def lag(self) -> int:
        """Records that are not committed."""
        return sum(max(0, end - self.committed.get(place, 0)) for place, end in self.ends.items())


@dataclasses.dataclass(slots=True)
class Execution:
    """One execution, by the model's own account: `run` is the number that it made up for it."""

    number: int
    run: int
    at: float
    pid: int


@dataclasses.dataclass(slots=True)
class InjectedFault:
    """One fault as it was done.

    Attributes:
        began, ended: until when it, and the way back from it, took.
        pids: processes that it touched.
        note: why it was left out; "" where it was done.
        loses: it made the store forget.
        hit: of a kill, when the signal was sent; 0 for others.
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
    """The resident memory of one process of the fleet at one moment, in bytes."""

    at: float
    member: str
    pid: int
    rss: int


@dataclasses.dataclass(slots=True, repr=False)  # asyncio makes the repr of what a run returns: seconds of it
class History:
    """Everything that is known of a run.

    Attributes:
        store_bytes: what Redis says that the run's keys take at its end; None where it was not asked.
        quiet_at: from when on there were neither faults nor new calls.
        settle: seconds after that in which the lag may reach zero.
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
        """As JSON takes it."""
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(orjson.dumps(self.plain(), option=orjson.OPT_SORT_KEYS)).hexdigest()


def digest(value: bytes) -> str:
    """What stands for a record's bytes."""
    return hashlib.sha256(value).hexdigest()[:32]
