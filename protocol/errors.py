"""The error taxonomy: one small tree, split by who is at fault. Each frontend (HTTP, gRPC, CLI) maps `Code` once. Pure.

Invariant: nothing below a frontend knows a status number; the wire carries the code's name.
"""

from __future__ import annotations

import enum
import json
from typing import Final

from protocol.texts import shortened


class Code(enum.StrEnum):
    """What went wrong, for machines. The names cross the wire, so no name ever changes."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    KEY_REUSED = "KEY_REUSED"
    TOO_LARGE = "TOO_LARGE"
    UNSUPPORTED = "UNSUPPORTED"
    EXHAUSTED = "EXHAUSTED"
    UNAVAILABLE = "UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CANCELLED = "CANCELLED"
    GONE = "GONE"
    MODEL_FAILED = "MODEL_FAILED"
    INTERNAL = "INTERNAL"


MAX_QUOTED = 200
"""Characters of a caller's name that an error repeats."""
_MAX_ITEMS = 32
_MAX_BITS = 128


def quoted(value: object) -> str:
    """A caller's value for an error text: text in single quotes, the rest as JSON; cut, without control characters."""
    if isinstance(value, bytes):
        value = value[:MAX_QUOTED].decode("utf-8", "backslashreplace")
    return f"'{_shown(value)}'" if isinstance(value, str) else _spelled(value)


def _spelled(value: object, *, inner: bool = False) -> str:
    """A value as JSON, with nested lists and objects elided."""
    if isinstance(value, list | tuple):
        if inner:
            return "[…]" if value else "[]"
        items = [_spelled(item, inner=True) for item in value[:_MAX_ITEMS]]
        return _shown(f"[{', '.join(items)}{', …' if len(value) > _MAX_ITEMS else ''}]")
    if isinstance(value, dict):
        return "{…}" if value else "{}"
    if isinstance(value, str):
        return f'"{_shown(value)}"'
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        return f"a number of more than {_MAX_BITS} bits"
    return _shown(json.dumps(value, default=repr))


def _shown(text: str) -> str:
    if len(text) > MAX_QUOTED:
        text = text[:MAX_QUOTED] + "…"
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else char.encode("unicode_escape").decode() for char in text])


def of_request(label: str, text: str) -> str:
    """The text with the request's id in front, as in Triton's core; `label` is the id in its body."""
    return f"[request id: {_shown(label) or '<id_unknown>'}] {text}"


RETRYABLE = frozenset({Code.EXHAUSTED, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED})
"""Failures after which the same `Idempotency-Key` runs again: the request itself was not refused."""


_GROUPED: Final = 3
"""Exceptions of a group that its text names."""


def described(error: BaseException) -> str:
    """An exception's text: a `FleetError`'s message, otherwise its type and its own text, which may be long, empty or raise."""
    if isinstance(error, FleetError):
        return error.message
    name = type(error).__name__
    try:
        text = _exit_text(error) if isinstance(error, SystemExit) else str(error)
    except BaseException as trouble:  # of a third party's __str__, which may even call sys.exit
        text = f"(its text cannot be made: {type(trouble).__name__})"
    if isinstance(error, BaseExceptionGroup):
        text += "".join([f"; {described(each)}" for each in error.exceptions[:_GROUPED]])
    return shortened(f"{name}: {text}" if text else name)


def _exit_text(error: SystemExit) -> str:
    """What sys.exit was called with: as Python does, a text means code 1."""
    code = error.code
    if code is None or isinstance(code, int):
        return f"exited with code {code or 0}"
    return f"exited with code 1: {code}"


class FleetError(Exception):
    """Base of every error that a caller may see; the message says what is wrong, where, and what to do.

    Attributes:
        code: the machine-readable kind.
        message: one sentence for a person.
        retry_after: seconds after which a retry makes sense, if known.
    """

    code = Code.INTERNAL

    def __init__(self, message: str, *, code: Code | None = None, retry_after: float | None = None) -> None:
        message = shortened(message)
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        if code is not None:
            self.code = code

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later without being changed."""
        return self.code in RETRYABLE


class InvalidArgument(FleetError):
    """The request itself is wrong; a retry will not help."""

    code = Code.INVALID_ARGUMENT


class CodecError(InvalidArgument):
    """Bytes that are not a message: malformed, truncated, over a limit or of an unknown version."""


class SizeError(CodecError):
    """The bytes of an input do not match its datatype and shape.

    Attributes:
        parts: the text before and after the model's name, which only the caller knows.
        names_request: whether Triton puts the request's id in front.
    """

    def __init__(self, *parts: str, names_request: bool = True) -> None:
        super().__init__("".join(parts))
        self.parts = parts
        self.names_request = names_request

    def full_text(self, model: str, label: str) -> str:
        """The whole text; `model` is "" if unknown, `label` is the id in the request's body."""
        text = f" for model '{model}'".join(self.parts) if model else self.message
        return of_request(label, text) if self.names_request else text


class ConfigError(InvalidArgument):
    """A model configuration or a setting that cannot be served; names the field."""


class NotFound(FleetError):
    """The named model, version or request does not exist."""

    code = Code.NOT_FOUND


class TooLarge(InvalidArgument):
    """Over a size limit; the message names the limit."""

    code = Code.TOO_LARGE


class Unsupported(FleetError):
    """Understood, but not supported here."""

    code = Code.UNSUPPORTED


class Exhausted(FleetError):
    """A bounded queue is full; try again after `retry_after` seconds."""

    code = Code.EXHAUSTED


class Unavailable(FleetError):
    """A part of the fleet cannot be reached, or is shutting down."""

    code = Code.UNAVAILABLE


class DeadlineExceeded(FleetError):
    """The caller's deadline passed before there was an answer."""

    code = Code.DEADLINE_EXCEEDED


class Cancelled(FleetError):
    """The caller cancelled the request."""

    code = Code.CANCELLED


class ModelFailed(FleetError):
    """The model raised, or returned an invalid answer."""

    code = Code.MODEL_FAILED
