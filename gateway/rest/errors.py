"""Maps errors to HTTP: one table. Nothing outside `rest` knows a status number. Pure."""

from __future__ import annotations

import math
from typing import Final

import orjson

from protocol.errors import Code, FleetError

STATUS: Final[dict[Code, int]] = {
    Code.INVALID_ARGUMENT: 400,
    Code.ALREADY_EXISTS: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.GONE: 410,
    Code.TOO_LARGE: 413,
    Code.KEY_REUSED: 422,
    Code.EXHAUSTED: 429,
    Code.CANCELLED: 499,
    Code.MODEL_FAILED: 500,
    Code.INTERNAL: 500,
    Code.UNSUPPORTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
"""ALREADY_EXISTS comes only from models and is 400 as in Triton. 499 is nginx's "client closed request" and gRPC's mapping of
CANCELLED; Triton answers 400, which blames the request."""

_REFUSALS: Final = {
    408: Code.DEADLINE_EXCEEDED, 413: Code.TOO_LARGE, 431: Code.TOO_LARGE, 501: Code.UNSUPPORTED, 503: Code.UNAVAILABLE,
    505: Code.UNSUPPORTED,
}  # fmt: skip
_RETRY_AFTER: Final = {Code.EXHAUSTED: 1.0, Code.UNAVAILABLE: 1.0}


def refusal_code(status: int) -> str:
    """The error code of a malformed request, by its status."""
    return _REFUSALS.get(status, Code.INVALID_ARGUMENT).value


def error_body(message: str) -> bytes:
    """The JSON body of every error."""
    return orjson.dumps({"error": message})


def error_headers(error: FleetError) -> list[tuple[str, str]]:
    """Headers of an error response."""
    headers = [("penstock-error", error.code.value)]  # distinguishes a failed model from a gateway fault: both are 500
    seconds = error.retry_after if error.retry_after is not None else _RETRY_AFTER.get(error.code)
    if seconds is not None:
        headers.append(("retry-after", str(max(1, math.ceil(seconds)))))
    if error.code is Code.UNAUTHENTICATED:
        headers.append(("www-authenticate", 'Bearer realm="penstock"'))
    if error.code is Code.UNSUPPORTED and "compression" in error.message:
        headers.append(("accept-encoding", "gzip, deflate"))
    return headers
