"""Length-prefixed frames, for pipes and sockets between our own processes. Pure."""

from __future__ import annotations

import struct
from typing import Final

_LENGTH: Final = struct.Struct(">I")


def frame(payload: bytes) -> bytes:
    """The payload with its length in front."""
    return _LENGTH.pack(len(payload)) + payload


def frames(buffer: bytearray) -> list[bytes]:
    """Remove all whole frames from the buffer and return their payloads."""
    found = []
    while len(buffer) >= _LENGTH.size:
        end = _LENGTH.size + _LENGTH.unpack_from(buffer)[0]
        if len(buffer) < end:
            break
        found.append(bytes(buffer[_LENGTH.size : end]))
        del buffer[:end]
    return found
