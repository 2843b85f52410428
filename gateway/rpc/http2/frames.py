"""The frames of HTTP/2, to bytes and back, and the faults of a peer. Pure."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD: Final = 9
"""Bytes of a frame before its payload."""
MAX_FRAME: Final = 64 * 1024
"""Bytes of a payload that a peer may send in one frame."""
DEFAULT_FRAME: Final = 16 * 1024
DEFAULT_WINDOW: Final = 65_535
MAX_WINDOW: Final = 2**31 - 1
_STREAM: Final = 2**31 - 1
_HEAD: Final = struct.Struct(">IBI")
_SETTING: Final = struct.Struct(">HI")
_NUMBER: Final = struct.Struct(">I")


class Kind(enum.IntEnum):
    """Types of frames."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag:
    """Flags of frames; END_STREAM has the bit of ACK. Plain numbers: every frame is asked for several."""

    END_STREAM: Final = 1
    ACK: Final = 1
    END_HEADERS: Final = 4
    PADDED: Final = 8
    PRIORITY: Final = 32


class Setting(enum.IntEnum):
    """Settings that are sent or heeded."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(enum.IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Fault(Exception):
    """A peer broke a rule of HTTP/2: its connection ends.

    Attributes:
        code: for GOAWAY.
    """

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame."""
    return frame_head(kind, flags, stream, len(payload)) + payload


def frame_head(kind: int, flags: int, stream: int, size: int) -> bytes:
    """The head of a frame whose payload has `size` bytes."""
    return _HEAD.pack(size << 8 | kind, flags, stream)


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(Kind.SETTINGS, 0, 0, b"".join([_SETTING.pack(*item) for item in values.items()]))


def window_update(stream: int, size: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, _NUMBER.pack(size))


def reset(stream: int, code: ErrorCode) -> bytes:
    """A RST_STREAM frame."""
    return frame(Kind.RST_STREAM, 0, stream, _NUMBER.pack(code))


def goaway(last: int, code: ErrorCode, text: str = "") -> bytes:
    """A GOAWAY frame: streams after `last` were not begun."""
    return frame(Kind.GOAWAY, 0, 0, _NUMBER.pack(last) + _NUMBER.pack(code) + text.encode()[:200])


def parse_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """The settings of a frame.

    Raises:
        Fault: a value cannot be.
    """
    if len(payload) % _SETTING.size:
        raise Fault(ErrorCode.FRAME_SIZE_ERROR, "a SETTINGS frame ends within a setting")
    for name, value in _SETTING.iter_unpack(payload):
        if name == Setting.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise Fault(ErrorCode.FLOW_CONTROL_ERROR, "the initial window is too large")
        if name == Setting.MAX_FRAME_SIZE and not DEFAULT_FRAME <= value < 2**24:
            raise Fault(ErrorCode.PROTOCOL_ERROR, "the maximum frame size cannot be")
        if name == Setting.ENABLE_PUSH and value > 1:
            raise Fault(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        yield name, value


def check_dependency(stream: int, priority: bytes) -> None:
    """Check what a call says of its priority, which is not heeded.

    Raises:
        Fault: it depends on itself, or belongs to no call.
    """
    if not stream or int.from_bytes(priority[:4], "big") & _STREAM == stream:
        raise Fault(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")


def parse_number(payload: bytes) -> int:
    """The number of a WINDOW_UPDATE or RST_STREAM frame.

    Raises:
        Fault: it has not four bytes.
    """
    if len(payload) != _NUMBER.size:
        raise Fault(ErrorCode.FRAME_SIZE_ERROR, "a frame that carries a number must have four bytes")
    number: int = _NUMBER.unpack(payload)[0]
    return number & _STREAM


def unpadded(payload: bytes, flags: int) -> bytes:
    """The payload of DATA or HEADERS without padding and priority.

    Raises:
        Fault: there is more padding than payload.
    """
    start = pad = 0
    if flags & Flag.PADDED:
        if not payload:
            raise Fault(ErrorCode.FRAME_SIZE_ERROR, "a padded frame is empty")
        start, pad = 1, payload[0]
    if flags & Flag.PRIORITY:
        start += 5
    if start + pad > len(payload):
        raise Fault(ErrorCode.PROTOCOL_ERROR, "a frame has more padding than payload")
    return payload[start : len(payload) - pad]
