"""Compressed data of any producer: inflated up to a limit, and never beyond it. Pure.

Data that declares a size over the limit (gzip in its trailer, snappy in its header) is refused before it is inflated. Data is
inflated into a buffer of the limit's size, which takes no memory until it is written to.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import cramjam
import numpy as np

from protocol.errors import CodecError, TooLarge

CODECS: Final = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
"""By the codec number in a record batch's attributes."""
MEBIBYTE: Final = 1024 * 1024
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER: Final = 16
_GZIP_TRAILER: Final = 8

Inflater = Callable[[memoryview, Any], int]
"""Inflates the data into a buffer; returns the number of bytes written."""


def inflate(codec: int, data: memoryview, limit: int, head: bytes = b"") -> memoryview:
    """The data, decompressed.

    Args:
        codec: a key of `CODECS`.
        data: from a record batch.
        limit: bytes that it may inflate to.
        head: bytes to put in front of it.

    Raises:
        TooLarge: it inflates to more.
        CodecError: the codec is not known, or the data is broken.
    """
    inflater = _INFLATERS.get(codec)
    if inflater is None:
        raise CodecError(f"compression codec {codec} is unknown; the codecs are {', '.join(CODECS.values())}")
    out: Any = np.empty(len(head) + limit, np.uint8)
    out[: len(head)] = np.frombuffer(head, np.uint8)
    try:
        size = inflater(data, out[len(head) :])
    except _Over:
        raise _too_large(limit) from None
    except (cramjam.DecompressionError, struct.error, ValueError, OSError) as exc:
        if "write whole buffer" in str(exc):
            raise _too_large(limit) from None
        raise CodecError(f"its {CODECS[codec]} data is broken: {exc}") from None
    return memoryview(out)[: len(head) + size]


class _Over(Exception):
    """The data declares a size over the limit."""


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"it inflates to more than {limit / MEBIBYTE:g} MiB")


def _gzip(data: memoryview, out: Any) -> int:
    if len(data) > _GZIP_TRAILER and int.from_bytes(data[-4:], "little") > len(out):
        raise _Over
    return cramjam.gzip.decompress_into(data, out)


def _snappy(data: memoryview, out: Any) -> int:
    """Raw (librdkafka), or framed (Java's xerial library)."""
    if bytes(data[: len(_XERIAL)]) != _XERIAL:
        return _snappy_block(data, out)
    at, size = _XERIAL_HEADER, 0
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        at += 4
        if length > len(data) - at:
            raise ValueError("a block ends too early")
        size += _snappy_block(data[at : at + length], out[size:])
        at += length
    return size


def _snappy_block(block: memoryview, out: Any) -> int:
    size = cramjam.snappy.decompress_raw_len(block)
    if size > len(out):
        raise _Over
    return cramjam.snappy.decompress_raw_into(block, out[:size])


_INFLATERS: Final[dict[int, Inflater]] = {
    1: _gzip,
    2: _snappy,
    3: cramjam.lz4.decompress_into,
    4: cramjam.zstd.decompress_into,
}
