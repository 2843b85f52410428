"""Compressed data of strangers: inflated up to a limit, and never beyond it. Pure.

Whatever declares its size is refused by it before anything is inflated: gzip's trailer and snappy's header. The rest stops at the
limit. The output buffers of lz4 and zstd take no memory until they are written to.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

import cramjam
import numpy as np

from protocol.errors import CodecError, TooLarge

CODECS: Final = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
"""By the number that a record batch has in its attributes."""
MEBIBYTE: Final = 1024 * 1024
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER: Final = 16
_GZIP_TRAILER: Final = 8
_GZIP_FORMAT: Final = 31


def inflate(codec: int, data: bytes, limit: int) -> bytes:
    """The data as it was before it was compressed.

    Args:
        codec: a key of `CODECS`.
        data: as a record batch has it.
        limit: bytes that it may inflate to.

    Raises:
        TooLarge: it inflates to more.
        CodecError: the codec is not known, or the data is broken.
    """
    inflater = _INFLATERS.get(codec)
    if inflater is None:
        raise CodecError(f"compression codec {codec} is not known; there are {', '.join(CODECS.values())}")
    try:
        return inflater(data, limit)
    except (cramjam.DecompressionError, zlib.error, struct.error, ValueError, OSError) as exc:
        if "write whole buffer" in str(exc):
            raise _too_large(limit) from None
        raise CodecError(f"its {CODECS[codec]} data is broken: {exc}") from None


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"it inflates to more than {limit / MEBIBYTE:g} MiB")


def _gzip(data: bytes, limit: int) -> bytes:
    if len(data) > _GZIP_TRAILER and int.from_bytes(data[-4:], "little") > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    room = limit
    while data:
        member = zlib.decompressobj(_GZIP_FORMAT)
        part = member.decompress(data, room + 1)
        room -= len(part)
        if room < 0:
            raise _too_large(limit)
        if not member.eof:
            raise ValueError("it ends too early")
        parts.append(part)
        data = member.unused_data
    return b"".join(parts)


def _snappy(data: bytes, limit: int) -> bytes:
    """Raw, as librdkafka writes it, or in the frames of Java's library."""
    if not data.startswith(_XERIAL):
        return _snappy_block(data, limit)
    parts: list[bytes] = []
    at, room = _XERIAL_HEADER, limit
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        at += 4
        if size > len(data) - at:
            raise ValueError("a block ends too early")
        parts.append(_snappy_block(data[at : at + size], room, limit))
        room -= len(parts[-1])
        at += size
    return b"".join(parts)


def _snappy_block(data: bytes, room: int, limit: int | None = None) -> bytes:
    if cramjam.snappy.decompress_raw_len(data) > room:
        raise _too_large(room if limit is None else limit)
    return bytes(cramjam.snappy.decompress_raw(data))


def _into(decompress: Callable[[Any, Any], int]) -> Callable[[bytes, int], bytes]:
    def inflater(data: bytes, limit: int) -> bytes:
        out = np.empty(limit, np.uint8)
        return out[: decompress(data, out)].tobytes()

    return inflater


_INFLATERS: Final[dict[int, Callable[[bytes, int], bytes]]] = {
    1: _gzip,
    2: _snappy,
    3: _into(cramjam.lz4.decompress_into),
    4: _into(cramjam.zstd.decompress_into),
}
