"""Exit codes of the command line, by `Code`. 2 is click's own, for wrong usage; 130 is Ctrl-C, 141 a closed pipe."""

from __future__ import annotations

import dataclasses
import errno
from typing import Final

from protocol.errors import Code, FleetError, of_request
from protocol.texts import shortened

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

_NO_MEMORY: Final = "this process gets no more memory: see ulimit -v, and the limit of its container"
_EXHAUSTED: Final[dict[int | None, str]] = {
    errno.EMFILE: "this process may not open more files and connections: raise the limit, as with ulimit -n 4096",
    errno.ENFILE: "this machine may not open more files (sysctl fs.file-max)",
    errno.ENOSPC: "no space is left on the device that is written to: the output's, or TMPDIR's",
    errno.EDQUOT: "this user's quota is used up on the device that is written to: the output's, or TMPDIR's",
    errno.ENOMEM: _NO_MEMORY,
}
"""What the operating system refuses without naming a file."""
_NO_THREAD: Final = "can't start new thread"
_MAX_SHOWN: Final = 2048
"""Characters of a file's name, or of an argument."""


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
    """The exit for an error that a user can fix: ours, inaccessible files, limits of the system. None for a bug."""
    if isinstance(error, FleetError):
        return Exit(EXIT_CODES[error.code], _for_people(error))
    if isinstance(error, OSError) and error.filename is not None:
        name = shortened(str(error.filename), _MAX_SHOWN)
        return Exit(EXIT_CODES[Code.INVALID_ARGUMENT], f"'{name}': {error.strerror}")
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        text = shortened(error.object, _MAX_SHOWN)
        return Exit(
            EXIT_CODES[Code.INVALID_ARGUMENT], f"'{text}' has bytes that are no UTF-8, and only names of files may"
        )
    if refused := _exhausted(error):
        return Exit(EXIT_CODES[Code.EXHAUSTED], refused)
    return None


def _exhausted(error: Exception) -> str:
    """What the operating system gives no more of; "" for another error."""
    if isinstance(error, OSError):
        return _EXHAUSTED.get(error.errno, "")
    if isinstance(error, MemoryError):
        return _NO_MEMORY
    if isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
        return "this process may not start more threads: see ulimit -u and ulimit -v, and the limits of its container"
    return ""
