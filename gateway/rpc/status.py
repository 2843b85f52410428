"""Maps errors to gRPC: one table. Pure.

`EXHAUSTED` is UNAVAILABLE, as Triton answers a full queue; RESOURCE_EXHAUSTED is what gRPC itself answers to a message that is too
large. The trailer `penstock-error` has the code's name, which distinguishes what gRPC does not.
"""

from __future__ import annotations

import math
from typing import Final
from urllib.parse import quote

from protocol.errors import Code, FleetError

STATUS: Final[dict[Code, int]] = {
    Code.CANCELLED: 1,
    Code.INVALID_ARGUMENT: 3,
    Code.DEADLINE_EXCEEDED: 4,
    Code.NOT_FOUND: 5,
    Code.GONE: 5,
    Code.ALREADY_EXISTS: 6,
    Code.PERMISSION_DENIED: 7,
    Code.TOO_LARGE: 8,
    Code.KEY_REUSED: 9,
    Code.UNSUPPORTED: 12,
    Code.MODEL_FAILED: 13,
    Code.INTERNAL: 13,
    Code.UNAVAILABLE: 14,
    Code.EXHAUSTED: 14,
    Code.UNAUTHENTICATED: 16,
}
"""The number of the gRPC status of each code."""
_RETRY_AFTER: Final = {Code.EXHAUSTED: 1.0, Code.UNAVAILABLE: 1.0}

_MAX_DETAILS: Final = 4096
"""Bytes of an error in a trailer, as gRPC writes it: clients allow 8 KB of metadata."""

Trailers = tuple[tuple[str, str], ...]


def error_trailers(error: FleetError) -> Trailers:
    """Trailing metadata of an error."""
    seconds = error.retry_after if error.retry_after is not None else _RETRY_AFTER.get(error.code)
    code = ("penstock-error", error.code.value)
    return (code,) if seconds is None else (code, ("retry-after", str(max(1, math.ceil(seconds)))))


def details(text: str) -> str:
    """The text, cut to what a trailer may have; gRPC writes three characters for each byte that is not printable ASCII."""
    kept = text[:_MAX_DETAILS]
    while len(quote(kept)) > _MAX_DETAILS and not (kept.isascii() and kept.isprintable()):
        kept = kept[: len(kept) // 2]
    return kept
