"""Cuts a call's bytes into messages: one byte that says whether it is compressed, four of its length, then its bytes. Pure.

A large message is received into its own memory once it was counted; until then its bytes stay in the peer's window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from protocol.errors import CodecError, TooLarge

PREFIX: Final = 5
LARGE: Final = 32 * 1024
"""Larger messages are counted before they are kept; they do not fit into the window that every call has."""

Message = bytes | memoryview


class Received(NamedTuple):
    """A whole message.

    Attributes:
        compressed: by the call's encoding.
    """

    data: Message
    compressed: bool


class MessageReader:
    """The messages of one call.

    Args:
        limit: bytes of a message, as received.

    Attributes:
        held: bytes of the peer that are not in a message yet, and not in the memory of a large one.
    """

    __slots__ = ("_backlog", "_compressed", "_filled", "_limit", "_target")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._backlog: bytes = b""
        self._target: memoryview | None = None
        self._filled = 0
        self._compressed = False

    @property
    def held(self) -> int:
        """See above."""
        return len(self._backlog)

    @property
    def partial(self) -> bool:
        """Whether a part of a message is here."""
        return self._target is not None or bool(self._backlog)

    @property
    def full(self) -> bool:
        """Whether a large message is whole."""
        return self._target is not None and self._filled == len(self._target)

    def add(self, data: bytes | memoryview) -> None:
        """Take bytes, those of a large message straight into its memory. A view is not kept."""
        target = self._target
        if target is None or self._backlog:
            self._backlog = self._backlog + data if self._backlog else bytes(data)
            return
        taken = min(len(target) - self._filled, len(data))
        target[self._filled : self._filled + taken] = data if taken == len(data) else data[:taken]
        self._filled += taken
        if taken < len(data):
            self._backlog = bytes(data[taken:])

    def next(self, begin: Callable[[int], None]) -> Received | None:
        """The next whole message; None until there is one.

        Args:
            begin: called with the size of a large message before memory is taken; it counts it, and lets the peer send it. It is
                not kept: a call that its own reader knew would wait for the collector.

        Raises:
            CodecError: what is here begins no message.
            TooLarge: it is larger than the limit.
            FleetError: of `begin`.
        """
        target = self._target
        if target is not None:
            if self._filled < len(target):
                return None
            self._target, self._filled = None, 0
            return Received(target.toreadonly(), self._compressed)
        backlog = self._backlog
        if len(backlog) < PREFIX:
            return None
        flag, size = backlog[0], int.from_bytes(backlog[1:PREFIX], "big")
        if flag > 1:
            raise CodecError(f"a gRPC message begins with 0 or 1, not with {flag}")
        if size > self._limit:
            raise TooLarge(f"the message has {size} bytes; at most {self._limit} are allowed: send fewer rows in each")
        end = PREFIX + size
        if len(backlog) >= end:
            self._backlog = backlog[end:]
            return Received(backlog[PREFIX:end], flag == 1)
        if size <= LARGE:
            return None
        begin(size)
        self._target, self._compressed = memoryview(bytearray(size)), flag == 1
        rest, self._backlog = backlog[PREFIX:], b""
        self.add(rest)
        return self.next(begin) if self._filled == size else None

    def drop(self) -> None:
        """Forget everything."""
        self._backlog, self._target = b"", None
