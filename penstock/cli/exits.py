"""Exit codes of the command line, by `Code`. 2 is click's own, for wrong usage; 130 is Ctrl-C, 141 a closed pipe."""

from __future__ import annotations

import dataclasses
from typing import Final

from protocol.errors import Code, FleetError, of_request

EXIT_CODES: Final[dict[Code, int]] = {
    Code.INVALID_ARGUMENT: 3,
    Code.TOO_LARGE: 3,
    Code.KEY_REUSED: 3,
    Code.ALREADY_EXISTS: 3,
    Code.NOT_FOUND: 4,
    Code.GONE: 4,
    Code.UNAUTHENTICATED: 5,
    Code.PERMISSION_DENIED: 5,
    Code.UNSUPPORTED: 6,
    Code.EXHAUSTED: 7,
    Code.UNAVAILABLE: 7,
    Code.DEADLINE_EXCEEDED: 8,
    Code.CANCELLED: 9,
    Code.MODEL_FAILED: 10,
    Code.INTERNAL: 11,
}
"""3 wrong input, 4 not found, 5 not allowed, 6 not offered, 7 try again later, 8 too late, 9 cancelled, 10 the model failed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Exit:
    """The exit of the command line.

    Attributes:
        code: its exit code.
        text: the line that is printed.
    """

    code: int
    text: str


def _for_people(error: FleetError) -> str:
    """The message for the command line: without the id of a request that has none, and with our own flags."""
    text = error.message.removeprefix(of_request("", ""))
    if error.code is Code.UNAUTHENTICATED:
        text += "; with this command: --api-key KEY, or set PENSTOCK_API_KEY"
    return text


def exit_of(error: Exception) -> Exit | None:
    """The exit for an error that a user can fix: ours, and inaccessible files. None for a bug, which keeps its traceback."""
    if isinstance(error, FleetError):
        return Exit(EXIT_CODES[error.code], _for_people(error))
    if isinstance(error, OSError) and error.filename is not None:
        return Exit(EXIT_CODES[Code.INVALID_ARGUMENT], f"'{error.filename}': {error.strerror}")
    return None
