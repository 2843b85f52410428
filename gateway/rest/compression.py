"""gzip and deflate in both directions, with a bound on what a small body may become. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final

from protocol.errors import CodecError, TooLarge, Unsupported
from protocol.tensors import Buffer

COMPRESS_FROM: Final = 1024
"""Answers smaller than this are sent as they are: most clients offer gzip unasked, and it would cost more than it saves."""
_GZIP: Final = 16 + zlib.MAX_WBITS
_WINDOW: Final = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": zlib.MAX_WBITS}
_LEVEL: Final = 1


def decompress(body: Buffer | bytearray, encoding: str, limit: int) -> bytes:
    """The body without its `Content-Encoding`.

    Raises:
        Unsupported: another encoding than gzip, deflate or identity.
        TooLarge: it would be more than `limit` bytes; not more than those are ever made.
        CodecError: it is not what it says, truncated, or followed by something else.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return bytes(body)
    if encoding not in _WINDOW:
        raise Unsupported(f"Unsupported compression type '{encoding[:64]}'; gzip and deflate are supported")
    try:
        engine = zlib.decompressobj(_WINDOW[encoding])
        raw = engine.decompress(body, limit + 1)
    except zlib.error as error:
        if encoding != "deflate":
            raise CodecError(f"the request body is not {encoding}: {error}") from None
        engine, raw = _raw_deflate(body, limit)
    if len(raw) > limit:
        raise TooLarge(f"the decompressed request body has more than {limit} bytes, the limit (max_body_bytes)")
    if not engine.eof:
        raise CodecError(f"the request body ends before its {encoding} stream does")
    if engine.unused_data:
        raise CodecError(f"{len(engine.unused_data)} bytes follow the {encoding} stream of the request body")
    return raw


def _raw_deflate(body: Buffer | bytearray, limit: int) -> tuple[zlib._Decompress, bytes]:
    """Deflate without zlib's header, which many clients mean by "deflate"."""
    try:
        engine = zlib.decompressobj(-zlib.MAX_WBITS)
        return engine, engine.decompress(body, limit + 1)
    except zlib.error as error:
        raise CodecError(f"the request body is not deflate: {error}") from None


def choose(accept: str) -> str:
    """The encoding that an `Accept-Encoding` header prefers: "gzip", "deflate", or "" for none."""
    weights: dict[str, float] = {}
    for entry in accept.split(",")[:32]:
        name, _, parameters = entry.partition(";")
        weights.setdefault(name.strip().lower(), _weight(parameters))
    offered = [(name, weights.get(name, weights.get("*", 0.0))) for name in ("gzip", "deflate")]
    best = max(
        offered, key=lambda offer: (offer[1], -list(weights).index(offer[0]) if offer[0] in weights else -len(weights))
    )
    return best[0] if best[1] > 0 and best[1] >= weights.get("identity", 0.0) else ""


def _weight(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name.strip().lower() != "q":
        return 1.0
    try:
        return min(max(float(value), 0.0), 1.0)
    except ValueError:
        return 0.0


def compress(parts: Sequence[Buffer], encoding: str) -> bytes:
    """The parts as one compressed body."""
    engine = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW[encoding])
    return b"".join([*map(engine.compress, parts), engine.flush()])
