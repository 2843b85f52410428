"""One call on a connection: its messages in and out, and how it ends."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from gateway.rpc.http2 import headers
from gateway.rpc.http2.frames import Kind, frame_head
from gateway.rpc.http2.headers import CallHead, Metadata
from gateway.rpc.http2.messages import PREFIX, MessageReader, Received
from gateway.rpc.http2.sending import Outgoing, head_frame
from protocol.errors import FleetError, InvalidArgument
from protocol.tensors import Buffer

_PREFIX: Final = struct.Struct(">?I")
JOINED: Final = 8 * 1024
"""Messages up to this size are joined: one piece is quicker to send than several."""
CUT: Final = "the call ends within a message"
UPDATE_FROM: Final = 16 * 1024
"""Bytes of a call that are read before its peer is told that it may send as many more."""


class CallLimits(NamedTuple):
    """What bounds a call, and who counts for it.

    Attributes:
        message: bytes of a message, as received.
        window: bytes that the peer takes before it asks for more.
        own_window: bytes that the peer may send before it is told to go on.
        reserve, release: count bytes of large messages; `reserve` raises a FleetError if there is no room.
    """

    message: int
    window: int
    own_window: int
    reserve: Callable[[int], None]
    release: Callable[[int], None]


class Carrier(Protocol):
    """The connection of a call."""

    def grant(self, stream: int, size: int) -> None:
        """Let the peer send more bytes of a call, within the connection's window."""

    def expect(self, stream: int, size: int) -> None:
        """Let the peer send a large message, which is counted, besides what the connection's window allows."""

    def consumed(self, size: int) -> None:
        """Let the peer send more bytes of any call."""

    def send(self, call: Call, head: bytes) -> None:
        """Send these bytes, then what waits of the call."""

    def allows(self, call: Call, size: int) -> bool:
        """Whether a DATA frame of so many bytes may be sent now."""

    def send_last(self, call: Call, data: bytes, size: int) -> None:
        """Send the frames that end a call, with a DATA frame of `size` bytes that is allowed."""

    def unread_changed(self) -> None:
        """More or fewer bytes wait to be sent."""


class Call:
    """One call.

    Attributes:
        stream: its number on the connection.
        head: what its headers say.
        deadline: on the loop's clock; None without one.
        task: works on it; cancelled when the peer is gone.
        ended: the peer sends no more.
        closed: it is answered, or the peer has gone.
        reserved: bytes of a large message that are counted.
    """

    __slots__ = (
        "_carrier", "_drained", "_encoding", "_error", "_head_sent", "_limits", "_messages", "_unreported", "_waiter",
        "closed", "deadline", "ended", "head", "outgoing", "reserved", "started", "stream", "task", "window",
    )  # fmt: skip

    def __init__(self, carrier: Carrier, stream: int, head: CallHead, now: float, limits: CallLimits) -> None:
        self._carrier = carrier
        self._limits = limits
        self.stream = stream
        self.head = head
        self.started = now
        self.deadline = None if head.timeout is None else now + head.timeout
        self.task: asyncio.Task[None] | None = None
        self.ended = self.closed = False
        self.reserved = 0
        self.window = limits.own_window
        self.outgoing = Outgoing(stream, limits.window)
        self._messages = MessageReader(limits.message)
        self._encoding = ""
        self._error: FleetError | None = None
        self._head_sent = False
        self._unreported = 0
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None

    # --- in -----------------------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """Names the service and its method."""
        return self.head.path

    @property
    def metadata(self) -> Metadata:
        """The call's metadata."""
        return self.head.metadata

    @property
    def reading(self) -> bool:
        """Whether a handler waits for a message."""
        return self._waiter is not None

    async def read(self) -> Received | None:
        """The next message; None after the last.

        Raises:
            FleetError: it is malformed, too large, or there is no room for it.
        """
        while True:
            if self._error is not None:
                raise self._error
            before = self._messages.held
            message = self._messages.next(self._begin_large)
            self._took(before - self._messages.held)
            if message is not None:
                return message
            if self.ended:
                if self._messages.partial:
                    raise InvalidArgument(CUT)
                return None
            if self.closed:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def feed(self, data: bytes | memoryview, *, end: bool) -> None:
        """Take bytes of the peer, which were within the windows."""
        self._messages.add(data)
        if end:
            self.ended = True
        if end or self._messages.held or self._messages.full:
            self._wake()

    def fail(self, error: FleetError) -> None:
        """Have reads raise an error."""
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _begin_large(self, size: int) -> None:
        """Count a large message, and let the peer send it."""
        if self.ended:
            raise InvalidArgument(CUT)
        self.release()
        self._limits.reserve(size)
        self.reserved = size
        self._carrier.expect(self.stream, size)
        self.window += size

    def release(self) -> None:
        """Return the bytes that are counted for a message: whoever has it counts it now."""
        if self.reserved:
            size, self.reserved = self.reserved, 0
            self._limits.release(size)

    def _took(self, size: int) -> None:
        """Bytes have left the window: the peer may send as many more."""
        if size <= 0:
            return
        self._carrier.consumed(size)
        self._unreported += size
        if self._unreported >= UPDATE_FROM and not self.ended:
            self._carrier.grant(self.stream, self._unreported)
            self.window += self._unreported
            self._unreported = 0

    # --- out ----------------------------------------------------------------------------------------------------------

    def compress(self, encoding: str) -> None:
        """State how the messages that follow may be compressed, before the first."""
        self._encoding = encoding

    async def write(self, pieces: Sequence[Buffer], *, compressed: bool = False) -> None:
        """Send a message in pieces; returns when it is sent."""
        self._put(pieces, compressed=compressed)
        if self.outgoing.size and not self.closed:
            self._drained = asyncio.get_running_loop().create_future()
            try:
                await self._drained
            finally:
                self._drained = None

    def finish(
        self,
        status: int = 0,
        details: str = "",
        metadata: Iterable[tuple[str, str]] = (),
        message: Sequence[Buffer] | None = None,
        *,
        compressed: bool = False,
    ) -> None:
        """End the call, with its last message if there is one; once."""
        if self.closed or self.outgoing.last is not None:
            return
        block = headers.trailers(status, details, metadata)
        if message is None and not self._head_sent:
            self.refuse(headers.RESPONSE + block)
            return
        last = head_frame(self.stream, block, end=True)
        if message is not None and self._put_whole(message, last, compressed=compressed):
            return
        self.outgoing.last = last
        if message is not None:
            self._put(message, compressed=compressed)
        else:
            self._carrier.send(self, b"")

    def refuse(self, block: bytes) -> None:
        """End the call with these headers alone."""
        self._head_sent = True
        self.outgoing.last = head_frame(self.stream, block, end=True)
        self._carrier.send(self, b"")

    def _put_whole(self, pieces: Sequence[Buffer], last: bytes, *, compressed: bool) -> bool:
        """Send a small message and the end of the call in one piece; False if it is not small, or may not be sent now."""
        size = PREFIX + _bytes_in(pieces)
        if size > JOINED or not self._carrier.allows(self, size):
            return False
        parts = (
            self._take_head(),
            frame_head(Kind.DATA, 0, self.stream, size),
            _prefix(size - PREFIX, compressed),
            *pieces,
            last,
        )
        self._carrier.send_last(self, b"".join(parts), size)
        return True

    def _put(self, pieces: Sequence[Buffer], *, compressed: bool) -> None:
        if self.closed:
            return
        head = self._take_head()
        size = _bytes_in(pieces)
        pieces = [_prefix(size, compressed), *pieces]
        self.outgoing.add([b"".join(pieces)] if size <= JOINED else pieces)
        self._carrier.send(self, head)

    def _take_head(self) -> bytes:
        """The head of the answer, once."""
        if self._head_sent:
            return b""
        self._head_sent = True
        return head_frame(self.stream, headers.response(self._encoding), end=False)

    def sent(self) -> None:
        """All bytes that waited were sent."""
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """It is answered, or its peer has gone. Idempotent."""
        self.closed = True
        self.release()
        held = self._messages.held
        self._messages.drop()
        if held:
            self._carrier.consumed(held)
        if self.outgoing.size:
            self.outgoing.drop()
            self._carrier.unread_changed()
        self._wake()
        self.sent()


def _bytes_in(pieces: Sequence[Buffer]) -> int:
    return sum([len(piece) if isinstance(piece, bytes) else memoryview(piece).nbytes for piece in pieces])


def _prefix(size: int, compressed: bool) -> bytes:
    """What stands in front of a message."""
    return _PREFIX.pack(compressed, size)
