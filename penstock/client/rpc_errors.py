"""What a failed RPC means. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from penstock.client.retrying import Unreached
from protocol.errors import Code, DeadlineExceeded, FleetError, TooLarge

_CODES: Final = {
    "INVALID_ARGUMENT": Code.INVALID_ARGUMENT, "OUT_OF_RANGE": Code.INVALID_ARGUMENT, "FAILED_PRECONDITION": Code.INVALID_ARGUMENT,
    "UNAUTHENTICATED": Code.UNAUTHENTICATED, "PERMISSION_DENIED": Code.PERMISSION_DENIED, "NOT_FOUND": Code.NOT_FOUND,
    "ALREADY_EXISTS": Code.ALREADY_EXISTS, "UNIMPLEMENTED": Code.UNSUPPORTED, "RESOURCE_EXHAUSTED": Code.EXHAUSTED,
    "UNAVAILABLE": Code.UNAVAILABLE, "DEADLINE_EXCEEDED": Code.DEADLINE_EXCEEDED, "CANCELLED": Code.CANCELLED,
}  # fmt: skip
"""Codes for answers that name none: of gRPC itself, or of another server."""
_NAMES: Final = frozenset(Code)
_NOT_CONNECTED: Final = (
    "failed to connect to all addresses",
    "DNS resolution failed",
    "Failed to connect to remote host",
)
_BROKEN: Final = (
    "Socket closed", "Connection reset", "recvmsg:", "Broken pipe", "Stream removed", "GOAWAY", "Received http2",
    "Transport closed", "Endpoint closing", "connection closed", "keepalive", "Connection closed",
)  # fmt: skip
"""How gRPC's own texts begin, or what they have, when a connection breaks. A server's errors have metadata or other texts."""
_TOO_LARGE: Final = "Received message larger than max"


def headers_of(*metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """Metadata as headers by name in lower case; of a repeated one the last. Binary ones are left out."""
    return {key: value for found in metadata for key, value in found or () if isinstance(value, str)}


def error_of(url: str, code: str, details: str, headers: Mapping[str, str], waited: float, most: int) -> FleetError:
    """The error of a failed RPC.

    Args:
        url: of the gateway.
        code: the status code's name.
        details: gRPC's or the server's text.
        headers: the answer's metadata.
        waited: seconds since the call began.
        most: bytes of an answer that are taken.
    """
    named = headers.get("penstock-error", "")
    if not named:
        if code == "DEADLINE_EXCEEDED" and details.startswith("Deadline Exceeded"):
            return DeadlineExceeded(f"{url} gave no answer within {waited:.3g} s")
        if code in ("UNAVAILABLE", "UNKNOWN", "INTERNAL") and not headers and (sent := _unreached(details)) is not None:
            why = "connection refused" if "Connection refused" in details else details
            return Unreached(
                f"{url} broke the connection: {why}" if sent else f"{url} cannot be reached: {why}", sent=sent
            )
        if code == "RESOURCE_EXHAUSTED" and _TOO_LARGE in details:
            return TooLarge(f"the answer of {url} is over the limit of {most} bytes (max_answer_bytes): {details}")
    after = headers.get("retry-after", "")
    return FleetError(
        details or f"gRPC status {code}",
        code=Code(named) if named in _NAMES else _CODES.get(code, Code.INTERNAL),
        retry_after=float(after) if after.replace(".", "", 1).isdigit() else None,
    )


def _unreached(details: str) -> bool | None:
    """Whether the server may have got a request that no server answered; None if one did."""
    if details.startswith(_NOT_CONNECTED):
        return False
    return True if any(words in details for words in _BROKEN) else None
