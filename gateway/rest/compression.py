"""gzip and deflate in both directions, with a bound on the inflated size. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final

from protocol.errors import CodecError, TooLarge, Unsupported
from protocol.tensors import Buffer

COMPRESS_FROM: Final = 1024
"""Smaller answers are not compressed: most clients accept gzip by default, and it would cost more than it saves."""
_GZIP: Final = 16 + zlib.MAX_WBITS
_WINDOW: Final = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": zlib.MAX_WBITS}
_LEVEL: Final = 1


class Inflation:
    """Inflates a body in steps, so that the bytes of each step can be counted first.

    Args:
        body: as received.
        encoding: the value of `Content-Encoding`.
        limit: largest inflated size in bytes.

    Attributes:
        raw: the bytes inflated so far.
        done: whether it is complete.

    Raises:
        Unsupported: the encoding is not gzip, deflate or identity.
    """

    __slots__ = ("_encoding", "_engine", "_limit", "_rest", "done", "raw")

    def __init__(self, body: Buffer | bytearray, encoding: str, limit: int) -> None:
        encoding = encoding.strip().lower()
        self.raw = bytearray()
        self.done = encoding in ("", "identity")
        if self.done:
            self.raw += body
        elif encoding not in _WINDOW:
            raise Unsupported(f"Unsupported compression type '{encoding[:64]}'; gzip and deflate are supported")
        self._encoding = encoding
        self._engine = zlib.decompressobj(_WINDOW.get(encoding, 0))
        self._limit = limit
        self._rest: Buffer | bytearray = body

    def step(self, size: int) -> None:
        """Inflate at most `size` more bytes.

        Raises:
            TooLarge: it would exceed the limit; no more than that is ever inflated.
            CodecError: it is not in this encoding, truncated, or followed by other bytes.
        """
        if self.done:
            return
        most = min(size, self._limit + 1 - len(self.raw))
        try:
            piece = self._engine.decompress(self._rest, most)
        except zlib.error as error:
            piece = self._without_header(error, most)
        self.raw += piece
        engine = self._engine
        self._rest = engine.unconsumed_tail
        if len(self.raw) > self._limit:
            raise TooLarge(
                f"the decompressed request body has more than {self._limit} bytes, the limit of a request: send fewer rows in each"
            )
        if engine.eof:
            if engine.unused_data:
                raise CodecError(
                    f"{len(engine.unused_data)} bytes follow the {self._encoding} stream of the request body"
                )
            self.done = True
        elif len(piece) < most:
            raise CodecError(f"the request body ends before its {self._encoding} stream does")

    def _without_header(self, error: zlib.error, size: int) -> bytes:
        """Inflate without zlib's header: many clients send raw deflate as "deflate"."""
        if self._encoding != "deflate" or self.raw:
            raise CodecError(f"the request body is not {self._encoding}: {error}") from None
        self._engine = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            return self._engine.decompress(self._rest, size)
        except zlib.error as other:
            raise CodecError(f"the request body is not deflate: {other}") from None


def decompress(body: Buffer | bytearray, encoding: str, limit: int) -> bytes:
    """Inflate a body in one step.

    Raises:
        Unsupported, TooLarge, CodecError: as `Inflation`.
    """
    inflation = Inflation(body, encoding, limit)
    inflation.step(limit + 1)
    return bytes(inflation.raw)


def choose(accept: str) -> str:
    """The encoding preferred by an `Accept-Encoding` header: "gzip", "deflate", or "" for none."""
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
