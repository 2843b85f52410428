"""Frames between a process that takes calls and the process that has the log: a head, and large binaries after it. Pure.

A frame is two lengths, a head of msgpack, and its binaries one after the other. The head says how long each binary is. A large
frame is read from the socket into the place where it stays: the reader hands out the memory to read into.

Both ends are processes of one server, connected by a socket pair that nobody else can reach.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

from protocol.errors import CodecError
from protocol.frames import pack, unpack
from protocol.tensors import Buffer

_LENGTHS: Final = struct.Struct(">II")
"""Bytes of the head, and of all binaries."""
ROOM: Final = 256 * 1024
"""Bytes that are read at once. A frame that is larger gets memory of its own."""
_LEAST: Final = 64 * 1024
"""Bytes that must be free to read into."""

MAX_FRAME: Final = 1024 * 1024 * 1024
"""Bytes of a frame: 32 of the largest answers, which are read in one call, take half of it."""

Frame = tuple[Any, list[memoryview]]
"""The head, and the binaries."""


def encode(head: object, binaries: Sequence[Buffer] = ()) -> list[Buffer]:
    """A frame, in parts to be written one after the other. The binaries are not copied."""
    sizes = [len(each) for each in binaries]
    packed = pack((head, sizes))
    return [_LENGTHS.pack(len(packed), sum(sizes)) + packed, *binaries]


class FrameReader:
    """Cuts what a socket delivers into frames.

    Use `room`, fill it from its start, then say with `filled` how much.
    """

    def __init__(self) -> None:
        self._buffer = bytearray(ROOM)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._large: memoryview | None = None
        self._have = 0

    def room(self) -> memoryview:
        """Memory to read into, never empty."""
        if self._large is not None:
            return self._large[self._have :]
        if ROOM - self._end < _LEAST:
            kept = self._end - self._start
            self._buffer[:kept] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, kept
        return self._view[self._end :]

    def filled(self, count: int) -> list[Frame]:
        """So many bytes were read; returns the frames that are complete now. What they hold stays as it is.

        Raises:
            CodecError: the other end sends something else than frames.
        """
        if self._large is not None:
            self._have += count
            if self._have < len(self._large):
                return []
            whole, self._large, self._have = self._large, None, 0
            return [_frame(whole)]
        self._end += count
        frames: list[Frame] = []
        while (size := self._next_size()) is not None:
            if self._end - self._start < size:
                if size > ROOM - _LEAST:
                    self._move_out(size)
                break
            frames.append(_frame(memoryview(bytes(self._view[self._start : self._start + size]))))
            self._start += size
        if self._start == self._end:
            self._start = self._end = 0
        return frames

    def _next_size(self) -> int | None:
        if self._end - self._start < _LENGTHS.size:
            return None
        head, rest = _LENGTHS.unpack_from(self._buffer, self._start)
        if head + rest > MAX_FRAME:
            raise CodecError(f"a frame claims {head + rest} bytes; at most {MAX_FRAME} are allowed")
        return int(_LENGTHS.size + head + rest)

    def _move_out(self, size: int) -> None:
        """Give the frame that has begun memory of its own."""
        self._large = memoryview(bytearray(size))
        self._have = self._end - self._start
        self._large[: self._have] = self._view[self._start : self._end]
        self._start = self._end = 0


def _frame(whole: memoryview) -> Frame:
    size, rest = _LENGTHS.unpack_from(whole)
    at = _LENGTHS.size + size
    try:
        head, sizes = unpack(whole[_LENGTHS.size : at])
        if sum(sizes) != rest:
            raise CodecError("a frame's binaries do not have the bytes that it names")
    except (TypeError, ValueError) as error:
        raise CodecError(f"a frame's head is not a pair: {error}") from None
    binaries = []
    for length in sizes:
        binaries.append(whole[at : at + length])
        at += length
    return head, binaries
