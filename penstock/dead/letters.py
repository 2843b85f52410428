"""A record of a dead topic, read: the original record, and the evidence that a worker wrote behind its headers. Pure.

Invariants: any header may be missing, null or rubbish, as may the time, and reading never fails; `original` holds exactly the
headers that the record had before it died, in their order.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Final

from protocol.codec import plausible
from protocol.errors import FleetError
from protocol.messages import ANONYMOUS
from protocol.naming import Names, ref
from protocol.ports import Headers, Record

HeaderPairs = tuple[tuple[str, bytes | None], ...]

FIRST_MARK: Final = "dead-reason"
"""The first header that a worker writes behind those of the original."""
MARKS: Final = frozenset(
    {
        FIRST_MARK, "dead-error", "dead-signal", "dead-attempts", "dead-worker", "dead-model-digest", "dead-batch", "dead-topic",
        "dead-partition", "dead-offset", "dead-timestamp", "dead-left-out",
    }
)  # fmt: skip
CONNECT: Final = "__connect.errors."
"""Kafka Connect's headers say the same once more, for tools that know those."""
REASONS: Final = ("undecodable", "poison", "attempts", "hung", "defect", "lost")
UNKNOWN: Final = "unknown"

REDRIVEN: Final = "redriven"
REDRIVEN_AS: Final = "redriven-as"
REDRIVE_OF: Final = "redrive-of"
_NUMBERED: Final = re.compile(r"(.+)~r([1-9][0-9]{0,8})\Z", re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead record, without its value: that may have 16 MiB, and stays in the log until it is asked for.

    Attributes:
        model: whose dead topic it is in.
        partition, offset: where in the dead topic.
        dead_lettered_at: when it came there, seconds since the epoch; 0 where the record's time is none.
        size: bytes of its value.
        key: of the original record.
        original: the original record's headers.
        evidence: the worker's, by name, as text.
    """

    model: str
    partition: int
    offset: int
    dead_lettered_at: float
    size: int
    key: bytes | None
    original: HeaderPairs
    evidence: dict[str, str]

    @property
    def place(self) -> str:
        """Names the dead record itself, where its id does not: `<model>/<partition>/<offset>`."""
        return f"{self.model}/{self.partition}/{self.offset}"

    @property
    def reason(self) -> str:
        """Why it is dead: one of `REASONS`, or `UNKNOWN`."""
        said = self.evidence.get(FIRST_MARK, "")
        return said if said in REASONS else UNKNOWN

    @property
    def error(self) -> str:
        """The sentence that says what is wrong; "" where nobody wrote one."""
        said = self.evidence.get(FIRST_MARK, "")
        return self.evidence.get("dead-error") or ("" if said in REASONS else said)

    @property
    def topic(self) -> str:
        """The original topic; "" where that is not known."""
        return self.evidence.get("dead-topic") or self.evidence.get(CONNECT + "topic", "")

    @property
    def source(self) -> tuple[int, int] | None:
        """(partition, offset) of the original record."""
        pair = [self._number(f"dead-{name}", CONNECT + name) for name in ("partition", "offset")]
        return None if pair[0] is None or pair[1] is None else (pair[0], pair[1])

    @property
    def left_out(self) -> str:
        """What the letter does not hold because it was too large to be written again; "" where it is whole."""
        return self.evidence.get("dead-left-out", "")

    @property
    def attempts(self) -> int | None:
        """How often it was tried."""
        return self._number("dead-attempts")

    @property
    def worker(self) -> str:
        """Who gave it up."""
        return self.evidence.get("dead-worker", "")

    @property
    def signal(self) -> str:
        """What ended the process, as `SIGSEGV`; "" where nothing did."""
        return self.evidence.get("dead-signal", "")

    @property
    def mates(self) -> tuple[str, ...]:
        """The ids that were in its batch."""
        return tuple(mate.replace("%2C", ",") for mate in self.evidence.get("dead-batch", "").split(",") if mate)

    @property
    def principal(self) -> str:
        """Who asked; the anonymous principal where the header cannot be read."""
        return _text(self.original, "principal") or ANONYMOUS

    @property
    def id(self) -> str:
        """The request's id; made from the original record's place, as workers do, where no header that can be read names one."""
        given = _text(self.original, "id")
        if given and _is_name(self.principal, given):
            return given
        if self.topic and self.source:
            stamp = self.evidence.get("dead-timestamp", "")
            return "-".join(filter(None, (self.topic, *map(str, self.source), stamp)))
        return self.place.replace("/", "-")

    @property
    def ref(self) -> str:
        """Names the request in the result store."""
        return ref(self.principal if _is_name(self.principal, "x") else ANONYMOUS, self.id)

    @property
    def root(self) -> tuple[str, int]:
        """(id, n): the id that was first asked for, and which redrive of it this is; 0 for the first request itself."""
        numbered = _NUMBERED.match(self.id) if any(name == REDRIVE_OF for name, _ in self.original) else None
        return (numbered[1], int(numbered[2])) if numbered else (self.id, 0)

    @property
    def root_ref(self) -> str:
        """`ref` of the request that this one, and all redrives of it, began as."""
        return ref(self.principal if _is_name(self.principal, "x") else ANONYMOUS, self.root[0])

    def version(self, names: Names) -> str | None:
        """The model version that its topic belongs to."""
        try:
            model, version = names.parse_infer_topic(self.topic)
        except FleetError:
            return None
        return version if model == self.model else None

    def _number(self, *names: str) -> int | None:
        for name in names:
            text = self.evidence.get(name, "")
            if text.isascii() and text.isdigit() and len(text) <= 18:
                return int(text)
        return None


@dataclasses.dataclass(frozen=True, slots=True)
class Redriven:
    """A note in the dead topic: a record was sent again.

    Attributes:
        root_ref: of the request that all redrives began as.
        id: under which it was sent.
        partition, offset: of the note.
        at: when.
    """

    root_ref: str
    id: str
    partition: int
    offset: int
    at: float

    @property
    def number(self) -> int:
        """The n of `<id>~r<n>`."""
        numbered = _NUMBERED.match(self.id)
        return int(numbered[2]) if numbered else 0


def read(record: Record, model: str) -> DeadLetter | Redriven:
    """What a record of the dead topic of `model` says."""
    fields = dict(record.headers)
    if FIRST_MARK not in fields and REDRIVEN in fields and not record.value:
        texts = {name: _text(tuple(record.headers), name) for name in (REDRIVEN, REDRIVEN_AS)}
        return Redriven(
            texts[REDRIVEN], texts[REDRIVEN_AS], record.partition, record.offset, plausible(record.timestamp)
        )
    original, evidence = split(record.headers)
    return DeadLetter(
        model, record.partition, record.offset, plausible(record.timestamp), len(record.value), record.key, original,
        {name: (value or b"").decode(errors="replace") for name, value in evidence},
    )  # fmt: skip


def split(headers: Headers) -> tuple[HeaderPairs, HeaderPairs]:
    """The original's headers, and the evidence behind them.

    A stranger may have sent headers of the same names: the evidence begins at the last `dead-reason`. Where something else follows,
    a worker of another version wrote it, and every header that could be evidence is taken for it.
    """
    pairs = tuple((name, value) for name, value in headers)
    start = max((index for index, (name, _) in enumerate(pairs) if name == FIRST_MARK), default=len(pairs))
    if all(is_mark(name) for name, _ in pairs[start:]) and start < len(pairs):
        return pairs[:start], pairs[start:]
    return tuple(pair for pair in pairs if not is_mark(pair[0])), tuple(pair for pair in pairs if is_mark(pair[0]))


def is_mark(name: str) -> bool:
    """Whether workers write a header of this name."""
    return name in MARKS or name.startswith(CONNECT)


def name_bytes(name: str) -> bytes:
    """A header's name as it is in the log: what is no UTF-8 there was read as lone surrogates."""
    return name.encode("utf-8", "surrogateescape")


def _text(headers: HeaderPairs, name: str) -> str:
    """A header as text; of repeated ones the last counts; "" where there is none, or none that is UTF-8."""
    try:
        return (dict(headers).get(name) or b"").decode()
    except UnicodeDecodeError:
        return ""


def _is_name(principal: str, request_id: str) -> bool:
    try:
        ref(principal, request_id)
    except FleetError:
        return False
    return True
