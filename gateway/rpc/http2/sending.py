"""How much of an answer may be sent: the windows of a connection and of a call. Pure."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence

from gateway.rpc.http2.frames import DEFAULT_WINDOW, MAX_WINDOW, ErrorCode, Fault, Flag, Kind, frame_head
from protocol.tensors import Buffer


class Window:
    """Bytes that a peer still takes.

    Attributes:
        size: that number; settings can make it negative.
    """

    __slots__ = ("size",)

    def __init__(self, size: int = DEFAULT_WINDOW) -> None:
        self.size = size

    def grow(self, more: int) -> None:
        """The peer takes more, or fewer.

        Raises:
            Fault: FLOW_CONTROL_ERROR; there are more than HTTP/2 can count.
        """
        self.size += more
        if self.size > MAX_WINDOW:
            raise Fault(ErrorCode.FLOW_CONTROL_ERROR, "a window is larger than HTTP/2 can count")


class Outgoing:
    """The bytes of one call that wait to be sent.

    Attributes:
        window: of the call.
        size: of the bytes that wait.
        last: the HEADERS frame that ends the call, when its bytes are sent; None until it is known.
    """

    __slots__ = ("_pieces", "_stream", "last", "size", "window")

    def __init__(self, stream: int, window: int) -> None:
        self._stream = stream
        self._pieces: collections.deque[memoryview] = collections.deque()
        self.window = Window(window)
        self.size = 0
        self.last: bytes | None = None

    def add(self, pieces: Sequence[Buffer]) -> None:
        """Put bytes behind those that wait."""
        for piece in pieces:
            view = memoryview(piece)
            if view.nbytes:
                self._pieces.append(view if view.format == "B" and view.ndim == 1 else view.cast("B"))
                self.size += view.nbytes

    def frames(self, connection: Window, most: int) -> Iterator[Buffer]:
        """DATA frames of at most `most` bytes, as many as both windows allow, and the end if all is sent."""
        while self.size:
            allowed = min(self.size, self.window.size, connection.size, most)
            if allowed <= 0:
                return
            yield frame_head(Kind.DATA, 0, self._stream, allowed)
            self.window.size -= allowed
            connection.size -= allowed
            self.size -= allowed
            yield from self._take(allowed)
        if self.last is not None:
            last, self.last = self.last, None
            yield last

    def _take(self, size: int) -> Iterator[memoryview]:
        while size:
            piece = self._pieces[0]
            if len(piece) > size:
                self._pieces[0] = piece[size:]
                yield piece[:size]
                return
            size -= len(piece)
            yield self._pieces.popleft()

    def drop(self) -> None:
        """Forget everything."""
        self._pieces.clear()
        self.size = 0
        self.last = None


def head_frame(stream: int, block: bytes, *, end: bool) -> bytes:
    """A HEADERS frame."""
    flags = Flag.END_HEADERS | (Flag.END_STREAM if end else 0)
    return frame_head(Kind.HEADERS, flags, stream, len(block)) + block
