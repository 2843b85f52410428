"""A record of a dead topic as an operator sees it: `protocol.dead_letter`'s evidence, and where the letter is, its request's id and
its redrives. Pure.

Invariant: reading never fails, even if headers or the time are missing, null or invalid.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Final

from protocol.codec import plausible
from protocol.dead_letter import (
    DEAD_REASON,
    REDRIVE_OF,
    REDRIVEN,
    REDRIVEN_AS,
    DeadHeaders,
    HeaderPairs,
    decode_evidence,
    split_headers,
)
from protocol.errors import FleetError
from protocol.messages import ANONYMOUS
from protocol.naming import Names, ref
from protocol.ports import Record

_NUMBERED: Final = re.compile(r"(.+)~r([1-9][0-9]{0,8})\Z", re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReadLetter(DeadHeaders):
    """One dead record, without its value, which may have 16 MiB and is read from the log on request.

    Attributes:
        model: the model whose dead topic has it.
        partition, offset: where in the dead topic.
        dead_lettered_at: when it was written there, seconds since the epoch; 0 if the record has no valid time.
        size: bytes of its value.
        key: of the original record.
    """

    model: str
    partition: int
    offset: int
    dead_lettered_at: float
    size: int
    key: bytes | None

    @property
    def place(self) -> str:
        """Names the dead record itself, if its id does not: `<model>/<partition>/<offset>`."""
        return f"{self.model}/{self.partition}/{self.offset}"

    @property
    def principal(self) -> str:
        """The caller; the anonymous principal if the header cannot be read."""
        return _text(self.original, "principal") or ANONYMOUS

    @property
    def id(self) -> str:
        """The request's id; if no readable header has one, made from the original record's place, as workers do."""
        given = _text(self.original, "id")
        if given and _is_name(self.principal, given):
            return given
        if self.topic and self.source:
            return "-".join(filter(None, (self.topic, *map(str, self.source), self.timestamp)))
        return self.place.replace("/", "-")

    @property
    def ref(self) -> str:
        """Names the request in the result store."""
        return ref(self.principal if _is_name(self.principal, "x") else ANONYMOUS, self.id)

    @property
    def root(self) -> tuple[str, int]:
        """(id, n): the first request's id, and the number of this redrive; 0 for the first request."""
        numbered = _NUMBERED.match(self.id) if any(name == REDRIVE_OF for name, _ in self.original) else None
        return (numbered[1], int(numbered[2])) if numbered else (self.id, 0)

    @property
    def root_ref(self) -> str:
        """`ref` of the first request, which this one is or redrives."""
        return ref(self.principal if _is_name(self.principal, "x") else ANONYMOUS, self.root[0])

    def version(self, names: Names) -> str | None:
        """The model version that its topic belongs to."""
        try:
            _, model, version = names.parse_request_topic(self.topic)
        except FleetError:
            return None
        return version if model == self.model else None


@dataclasses.dataclass(frozen=True, slots=True)
class Redriven:
    """A note in the dead topic: a record was sent again.

    Attributes:
        root_ref: the ref of the first request.
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


def read_letter(record: Record, model: str) -> ReadLetter | Redriven:
    """What a record of the dead topic of `model` says."""
    fields = dict(record.headers)
    if DEAD_REASON not in fields and REDRIVEN in fields and not record.value:
        texts = {name: _text(tuple(record.headers), name) for name in (REDRIVEN, REDRIVEN_AS)}
        return Redriven(
            texts[REDRIVEN], texts[REDRIVEN_AS], record.partition, record.offset, plausible(record.timestamp)
        )
    original, evidence = split_headers(record.headers)
    return ReadLetter(
        original=original, evidence=decode_evidence(evidence), model=model, partition=record.partition, offset=record.offset,
        dead_lettered_at=plausible(record.timestamp), size=len(record.value), key=record.key,
    )  # fmt: skip


def name_bytes(name: str) -> bytes:
    """A header's name as bytes; bytes that are not UTF-8 were read as lone surrogates."""
    return name.encode("utf-8", "surrogateescape")


def _text(headers: HeaderPairs, name: str) -> str:
    """A header as text, the last one if it is repeated; "" if it is missing or not UTF-8."""
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
