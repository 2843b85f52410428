"""Values of the ports as plain data with large binaries beside it, and back. Pure.

A sequence stays one. Everything else that msgpack has no form for is a map with one entry, whose key names what it is.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from protocol import ports
from protocol.codec import payload_bytes, record_bytes
from protocol.errors import (
    Code,
    CodecError,
    Exhausted,
    FleetError,
    InvalidArgument,
    NotFound,
    TooLarge,
    Unavailable,
    Unsupported,
)
from protocol.heartbeat_codec import decode_heartbeat, encode_heartbeat
from protocol.messages import Heartbeat, InferReply
from protocol.ports import OutRecord, Record
from protocol.tensors import Buffer
from protocol.totals import Counts

INLINE: Final = 2048
"""A binary of at most this many bytes is part of the plain data."""

_KINDS: Final[dict[str, Any]] = {
    name: kind
    for name in ports.__all__
    if isinstance(kind := getattr(ports, name), type)
    and (dataclasses.is_dataclass(kind) or issubclass(kind, enum.Enum))
}
_KINDS["Counts"] = Counts
_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    name: tuple(field.name for field in dataclasses.fields(kind))
    for name, kind in _KINDS.items()
    if dataclasses.is_dataclass(kind)
}
_FLEET_ERRORS: Final[tuple[type[FleetError], ...]] = (
    InvalidArgument, NotFound, Unavailable, Exhausted, Unsupported, TooLarge,
)  # fmt: skip
_ERRORS: Final = {kind.code: kind for kind in _FLEET_ERRORS}


def plain(value: Any, binaries: list[Buffer]) -> Any:
    """The value as plain data; its large binaries are appended to the list."""
    if value is None or (isinstance(value, str | int | float) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, bytes | memoryview):
        if len(value) <= INLINE:
            return bytes(value)
        binaries.append(value)
        return {"binary": len(binaries) - 1}
    if isinstance(value, Mapping):
        return {"map": [[plain(key, binaries), plain(item, binaries)] for key, item in value.items()]}
    if isinstance(value, Sequence):
        return [plain(item, binaries) for item in value]
    return _object(value, binaries)


def _object(value: Any, binaries: list[Buffer]) -> Any:
    if isinstance(value, Heartbeat):
        return {"heartbeat": encode_heartbeat(value)}
    if isinstance(value, InferReply):
        return plain(payload_bytes(value), binaries)
    if isinstance(value, enum.Enum):
        return {type(value).__name__: value.value}
    if isinstance(value, FleetError):
        return {"error": [value.code.value, value.message, value.retry_after]}
    if isinstance(value, OutRecord | Record) and value.request is not None:
        content, headers = record_bytes(value)
        value = dataclasses.replace(value, value=content, headers=headers, request=None, request_size=0)
    name = type(value).__name__
    if name not in _FIELDS:
        raise TypeError(f"a {name} does not cross to another process")
    return {name: [plain(getattr(value, field), binaries) for field in _FIELDS[name]]}


def value_of(data: Any, binaries: Sequence[memoryview]) -> Any:
    """The inverse of `plain`. A binary in it is bytes, except that the value of a record is a view where it is large.

    Raises:
        CodecError: it is not what `plain` returns.
    """
    if isinstance(data, list):
        return [value_of(item, binaries) for item in data]
    if not isinstance(data, dict):
        return data
    try:
        ((name, inner),) = data.items()
        return _SPECIAL[name](inner, binaries) if name in _SPECIAL else _known(name, inner, binaries)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CodecError(f"a value between two processes of this server cannot be read: {error!r}") from None


def _known(name: str, inner: Any, binaries: Sequence[memoryview]) -> Any:
    kind = _KINDS[name]
    if issubclass(kind, enum.Enum):
        return kind(inner)
    fields = dict(zip(_FIELDS[name], inner, strict=True))
    if kind in (OutRecord, Record):
        content = fields.pop("value")
        value = binaries[content["binary"]] if isinstance(content, dict) else content
        headers = [(header, text) for header, text in value_of(fields.pop("headers"), binaries)]
        return kind(value=value, headers=headers, **{field: value_of(each, binaries) for field, each in fields.items()})
    return kind(**{field: tuples(value_of(each, binaries)) for field, each in fields.items()})


def tuples(value: Any) -> Any:
    """Lists as tuples, at any depth."""
    return tuple([tuples(item) for item in value]) if isinstance(value, list) else value


def _error(inner: Any, _: Sequence[memoryview]) -> FleetError:
    code, message, retry_after = inner
    return _ERRORS.get(Code(code), FleetError)(message, code=Code(code), retry_after=retry_after)


def _map(inner: Any, binaries: Sequence[memoryview]) -> dict[Any, Any]:
    return {value_of(key, binaries): value_of(item, binaries) for key, item in inner}


_SPECIAL: Final[dict[str, Callable[[Any, Sequence[memoryview]], Any]]] = {
    "binary": lambda index, binaries: bytes(binaries[index]),
    "map": _map,
    "heartbeat": lambda data, _: decode_heartbeat(data),
    "error": _error,
}
