"""Heartbeats in the pipe from a worker to its supervisor: each with its length in front. Pure."""

from __future__ import annotations

import struct
from typing import Final

_LENGTH: Final = struct.Struct(">I")


def frame(payload: bytes) -> bytes:
    """The payload as it goes into the pipe."""
    return _LENGTH.pack(len(payload)) + payload


def frames(buffer: bytearray) -> list[bytes]:
    """The payloads of all whole frames in the buffer, which they leave."""
    found = []
    while len(buffer) >= _LENGTH.size:
        end = _LENGTH.size + _LENGTH.unpack_from(buffer)[0]
        if len(buffer) < end:
            break
        found.append(bytes(buffer[_LENGTH.size : end]))
        del buffer[:end]
    return found
