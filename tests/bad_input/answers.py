"""Reads HTTP/1.1 answers from a connection, and rejects everything else."""

from __future__ import annotations

import dataclasses
from typing import Final

_MAX_HEAD: Final = 64 * 1024


class NotAnAnswer(Exception):
    """The bytes are not an HTTP/1.1 answer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        status: its number.
        fields: headers by lower-case name.
        body: without its framing.
    """

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether it announces the end of its connection."""
        return self.fields.get("connection", "").lower() == "close"

    def __str__(self) -> str:
        return f"{self.status} {self.fields.get('penstock-error', '')} {self.body[:200]!r}"


class Reader:
    """Takes bytes from a socket, and yields complete answers. Interim answers (1xx) are only counted.

    Attributes:
        interim: answers with a status below 200.
    """

    def __init__(self) -> None:
        self.interim = 0
        self._data = bytearray()
        self._head: tuple[int, dict[str, str]] | None = None
        self._length = 0

    @property
    def rest(self) -> bytes:
        """The bytes of an incomplete answer."""
        return bytes(self._data[:200])

    def feed(self, data: bytes) -> list[Answer]:
        """The answers that these bytes complete.

        Raises:
            NotAnAnswer: they are not HTTP/1.1 with a Content-Length.
        """
        self._data += data
        complete: list[Answer] = []
        while (answer := self._next()) is not None:
            complete.append(answer)
        return complete

    def _next(self) -> Answer | None:
        while self._head is None:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                if len(self._data) > _MAX_HEAD:
                    raise NotAnAnswer(f"a head without end: {self.rest!r}")
                return None
            self._take_head(end)
        if len(self._data) < self._length:
            return None
        (status, fields), self._head = self._head, None
        body = bytes(self._data[: self._length])
        del self._data[: self._length]
        return Answer(status, fields, body)

    def _take_head(self, end: int) -> None:
        first, *lines = self._data[:end].decode("latin-1").split("\r\n")
        if not first.startswith("HTTP/1.1 ") or not first[9:12].isdigit():
            raise NotAnAnswer(f"a status line {first[:200]!r}")
        del self._data[: end + 4]
        status = int(first[9:12])
        if status < 200:
            self.interim += 1
            return
        fields: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip() or name.lower() in fields:
                raise NotAnAnswer(f"a header line {line[:200]!r}")
            fields[name.lower()] = value.strip()
        length = fields.get("content-length", "0" if status in (204, 304) else "")
        if not length.isdigit():
            raise NotAnAnswer(f"{status} without a Content-Length: {fields}")
        self._head, self._length = (status, fields), int(length)
