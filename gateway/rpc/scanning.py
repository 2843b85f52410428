"""Splits the bytes of a ModelInferRequest into what repeats and what does not, without parsing it. Pure.

Tensors are most of a message and differ from request to request, as does its id. The rest is small, repeats, and is parsed by
protobuf once (`gateway.rpc.requests`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from protocol.errors import CodecError, InvalidArgument
from protocol.v2 import MAX_PARAMETERS, MAX_TENSORS

_ID: Final = 3 << 3 | 2
_PARAMETERS: Final = 4 << 3 | 2
_RAW: Final = 7 << 3 | 2
_MAX_FIELDS: Final = 2 * MAX_TENSORS + MAX_PARAMETERS + 64
"""Fields of the whole message besides raw contents. protobuf keeps an object for each, however short it is."""
_WIRE_BYTES: Final = {1: 8, 5: 4}
_MAX_VARINT: Final = 10
_MAX_SIZE_BYTES: Final = 5
MALFORMED: Final = "the message is not a ModelInferRequest"


class Parts(NamedTuple):
    """A message in parts.

    Attributes:
        head: all fields but the other two, as bytes of a ModelInferRequest.
        label: the id, "" without one.
        raws: `raw_input_contents`, as views of the message.
    """

    head: bytes
    label: str
    raws: list[memoryview]


def split(message: bytes | memoryview) -> Parts:
    """Split a message at its top-level fields.

    Raises:
        CodecError: it is no protobuf message, or the id is not UTF-8.
        InvalidArgument: it has too many fields.
    """
    try:
        return _split(message)
    except IndexError:
        raise CodecError(f"{MALFORMED}: it ends inside a field") from None
    except UnicodeDecodeError:
        raise CodecError(f"{MALFORMED}: its id is not UTF-8") from None


def _split(message: bytes | memoryview) -> Parts:
    label, raws = "", []
    end, position, start, fields = len(message), 0, 0, 0
    view = memoryview(message)
    kept: list[bytes] = []
    while position < end:
        at = position
        tag = message[at]
        size = message[at + 1]
        if tag & 0x87 != 2 or size > 127:  # not a short field with a length
            tag, position, size = _field(message, at)
        else:
            position = at + 2
        content, position = position, position + size
        if position > end:
            raise CodecError(f"{MALFORMED}: it ends inside a field")
        if tag == _RAW:
            raws.append(view[content:position])
        elif tag == _ID:
            label = str(view[content:position], "utf-8")
        else:
            fields += 1
            continue
        if at > start:
            kept.append(bytes(message[start:at]))
        start = position
    if fields > _MAX_FIELDS or len(raws) > MAX_TENSORS:
        raise InvalidArgument(
            f"the message has {fields} fields and {len(raws)} raw contents; at most {_MAX_FIELDS} and {MAX_TENSORS} are allowed"
        )
    if start < end:
        kept.append(bytes(message[start:end]))
    return Parts(kept[0] if len(kept) == 1 else b"".join(kept), label, raws)


def _field(message: bytes | memoryview, at: int) -> tuple[int, int, int]:
    """(tag, position of the content, its size) of any field; groups have no size and are refused."""
    tag, position = _varint(message, at, _MAX_SIZE_BYTES)
    wire = tag & 7
    if wire == 2:
        size, position = _varint(message, position, _MAX_SIZE_BYTES)
        return tag, position, size
    if wire == 0:
        _, end = _varint(message, position, _MAX_VARINT)
        return tag, position, end - position
    if wire in _WIRE_BYTES:
        return tag, position, _WIRE_BYTES[wire]
    raise CodecError(f"{MALFORMED}: it has a field of wire type {wire}")


def _varint(message: bytes | memoryview, position: int, most: int) -> tuple[int, int]:
    """A number, and the position after it."""
    value = 0
    for shift in range(0, 7 * most, 7):
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise CodecError(f"{MALFORMED}: a number in it has more than {most} bytes")


def entries(message: memoryview | bytes, most: int) -> int:
    """How many fields a message has, with those of the messages in it down to an input's contents; counts to `most`.

    A caller may write a field in two bytes for which protobuf keeps an object of fifty.
    """
    raw, count = bytes(message), 0
    spans = [(0, len(raw), 0)]
    try:
        while spans:
            position, end, depth = spans.pop()
            while position < end and count < most:
                tag, content, size = _field(raw, position)
                position = content + size
                count += 1
                if tag & 7 == 2 and position <= end and _nested(tag >> 3, depth):
                    spans.append((content, position, depth + 1))
    except (IndexError, CodecError):
        return count  # protobuf refuses it
    return count


def _nested(field: int, depth: int) -> bool:
    """Whether a field of a ModelInferRequest (depth 0) or of its input (1) is a message."""
    return field in (4, 5, 6) if depth == 0 else field in (2, 4, 5) if depth == 1 else False
