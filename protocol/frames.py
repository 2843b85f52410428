"""Records as frames: a head that describes tensors, and their bytes after it. The wire's only encoder of msgpack.

A frame is one msgpack array of binaries. Its first is the head, a msgpack map (an Open Inference Protocol request or reply); the
second is the tail, all tensors' raw bytes, one after the other, each `size` bytes of the head's tensor. Because the lengths come
first, tensors are read as views of the record without a copy.

All that differs between two requests of the same shapes is outside the head. Most heads therefore repeat, and their layout is
cached (`known_layout`) instead of decoded and checked again, which halves the cost of decoding a small request.

Invariant: any input bytes give a value or `CodecError`, nothing else.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgpack

from protocol import v2
from protocol.errors import CodecError, quoted
from protocol.tensors import ITEM_SIZE, MAX_ELEMENTS, Buffer, Tensor, check_shape, check_size, element_count, spend

WIRE_VERSION: Final = 1
"""Readers accept this version and the one before it; anything else goes to the dead letters."""
MAX_RECORD: Final = 16 * 1024 * 1024
"""Bytes of one record; topics, producer and consumer are set to allow it."""

_BIN32: Final = 0xC6
_ARRAY: Final = 0x90
"""First byte of a msgpack array, plus its length."""
HEADS: Final = 1024
_HEAD_BYTES: Final = 1024
"""At most `HEADS` heads of at most this size are cached, for decoding and for encoding each."""
_LENGTH: Final = struct.Struct(">I")

_PACKER: Final = msgpack.Packer(use_bin_type=True, autoreset=True)
"""Shared: `pack` never releases the interpreter's lock, and making a packer takes longer than packing."""


def pack(value: object) -> bytes:
    """Plain data as msgpack."""
    packed: bytes = _PACKER.pack(value)
    return packed


def unpack(data: Buffer) -> Any:
    """Plain data from msgpack, with limits.

    Raises:
        CodecError: the bytes are not one msgpack value.
    """
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True, max_ext_len=0)
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as exc:
        raise CodecError(f"not a msgpack value: {type(exc).__name__} {exc}") from None


def join_frame(head: bytes, tensors: Sequence[Tensor], third: bytes | None = None) -> bytes:
    """A frame of two or three binaries: the head, the tensors' bytes, and the third."""
    size = sum([len(tensor.data) for tensor in tensors])
    parts: list[Buffer] = [
        b"\x93\xc6" if third is not None else b"\x92\xc6",
        _LENGTH.pack(len(head)),
        head,
        b"\xc6",
        _LENGTH.pack(size),
    ]
    parts += [tensor.data for tensor in tensors]
    if third is not None:
        parts += (b"\xc6", _LENGTH.pack(len(third)), third)
    return b"".join(parts)


def frame_start(head: bytes, size: int) -> bytes:
    """What a frame of two binaries has in front of its tail, which has `size` bytes."""
    return b"".join([b"\x92\xc6", _LENGTH.pack(len(head)), head, b"\xc6", _LENGTH.pack(size)])


def split_frame(value: Buffer) -> tuple[dict[str, Any], memoryview]:
    """The head's map and a view of the tail (empty for a map alone).

    Raises:
        CodecError: it is neither a frame nor a map, or over `MAX_RECORD`.
    """
    view = view_of(value)
    parts = frame_parts(view, 2)
    if parts is None:
        return decode_map(view), view[:0]
    return decode_map(parts[0]), parts[1]


def view_of(value: Buffer) -> memoryview:
    """A view of a record.

    Raises:
        CodecError: it is over `MAX_RECORD`.
    """
    if len(value) > MAX_RECORD:
        raise CodecError(f"record has {len(value)} bytes; at most {MAX_RECORD} are allowed")
    return memoryview(value)


def frame_parts(view: memoryview, count: int) -> list[memoryview] | None:
    """The `count` binaries of a frame; None for anything else.

    Raises:
        CodecError: it begins like a frame, but its lengths do not match.
    """
    size, at = len(view), 1
    if size < 1 + 5 * count or view[0] != _ARRAY + count or view[1] != _BIN32:
        return None
    parts = []
    for _ in range(count):
        if at + 5 > size or view[at] != _BIN32:
            raise CodecError("record is truncated: its lengths do not match its size")
        start = at + 5
        at = start + _LENGTH.unpack_from(view, at + 1)[0]
        parts.append(view[start:at])
    if at != size:
        raise CodecError("record is truncated: its lengths do not match its size")
    return parts


def decode_map(data: Buffer) -> dict[str, Any]:
    """A head's map.

    Raises:
        CodecError: it is not a map.
    """
    head = unpack(data)
    if not isinstance(head, dict):
        raise CodecError(f"record must hold a map, not {type(head).__name__}")
    return head


_Span = tuple[str, str, tuple[int, ...], int, int]


class Layout(NamedTuple):
    """The content of a plain head: one with names and tensors only.

    Attributes:
        tensors: name, datatype, shape, and the start and end of its bytes in the tail.
        size: of the tail.
        outputs: a request's wanted outputs.
        model, version: a reply's.
    """

    tensors: tuple[_Span, ...]
    size: int
    outputs: tuple[str, ...]
    model: str
    version: str

    def cut(self, tail: memoryview) -> tuple[Tensor, ...]:
        """The tensors in a tail of this size."""
        return tuple([Tensor(name, kind, shape, tail[start:end]) for name, kind, shape, start, end in self.tensors])


_PLAIN_REQUEST: Final = frozenset({"inputs", "outputs"})
_PLAIN_REPLY: Final = frozenset({"v", "model_name", "model_version", "outputs"})
_PLAIN_TENSOR: Final = {"name", "datatype", "shape", "size"}


@functools.lru_cache(HEADS)
def _layout(head: bytes, reply: bool) -> Layout | None:
    """The layout of a head; None for a head with other fields or a fault, which the full decoder handles."""
    try:
        fields = decode_map(head)
        if not fields.keys() <= (_PLAIN_REPLY if reply else _PLAIN_REQUEST):
            return None
        model, version = reply_names(fields) if reply else ("", "")
        outputs = () if reply else names_of(fields.get("outputs", ()))
    except CodecError:
        return None
    spans = _spans(fields.get("outputs" if reply else "inputs"))
    return None if spans is None else Layout(spans, spans[-1][-1] if spans else 0, outputs, model, version)


def _spans(heads: object) -> tuple[_Span, ...] | None:
    """The span of each tensor's bytes; None if the heads alone do not determine it."""
    if type(heads) is not list or len(heads) > v2.MAX_TENSORS:
        return None
    spans: list[_Span] = []
    start = 0
    for head in heads:
        if type(head) is not dict or head.keys() != _PLAIN_TENSOR:
            return None
        name, datatype, shape, size = head["name"], head["datatype"], head["shape"], head["size"]
        if type(name) is not str or type(datatype) is not str or type(shape) is not list or type(size) is not int:
            return None
        item = ITEM_SIZE.get(datatype, 0)  # the elements of BYTES must be checked one by one
        try:
            sizes = check_shape(shape, name)
        except CodecError:
            return None
        if item == 0 or element_count(sizes) * item != size:
            return None
        spans.append((name, datatype, sizes, start, start := start + size))
    return tuple(spans)


def tensor_heads(tensors: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Heads of tensors whose bytes are in the tail."""
    return [{"name": t.name, "datatype": t.datatype, "shape": t.shape, "size": len(t.data)} for t in tensors]


def tensors_of(
    heads: object, tail: memoryview, where: str, most: int = MAX_ELEMENTS, *, trusted: bool = False
) -> tuple[Tensor, ...]:
    """The tensors of a head's field `where` and the tail, each checked.

    Args:
        trusted: the fleet wrote them, so that the elements of BYTES need no check.

    Raises:
        CodecError: names the fault.
        ManyElements: they have more than `most` BYTES elements.
    """
    if not isinstance(heads, list) or len(heads) > v2.MAX_TENSORS:
        raise CodecError(f"'{where}' must be a list of at most {v2.MAX_TENSORS} tensors")
    tensors, position = [], 0
    for head in heads:
        tensor, used = _tensor(head, tail[position:], where)
        position += used
        if not (trusted and tensor.datatype == "BYTES"):
            most = spend(most, tensor.datatype, tensor.shape)
            check_size(tensor)
        tensors.append(tensor)
    if position != len(tail):
        raise CodecError(f"record has {len(tail) - position} bytes that belong to no tensor of '{where}'")
    return tuple(tensors)


def _tensor(head: object, tail: memoryview, where: str) -> tuple[Tensor, int]:
    """One tensor, and the number of bytes that it took from the tail."""
    if not isinstance(head, dict):
        raise CodecError(f"each of '{where}' must be a map")
    name, datatype, shape = head.get("name"), head.get("datatype"), head.get("shape")
    if type(name) is not str or type(datatype) is not str or type(shape) is not list or datatype not in ITEM_SIZE:
        raise CodecError(
            f"a tensor of '{where}' lacks a name, a known datatype or a shape: {quoted(name)}, {quoted(datatype)}"
        )
    data = head.get("data")
    if data is None:
        size = head.get("size")
        if type(size) is not int or not 0 <= size <= len(tail):
            raise CodecError(f"tensor '{name}' claims {quoted(size)} bytes, but only {len(tail)} are left")
        tensor, used = Tensor(name, datatype, check_shape(shape, f"tensor '{name}'"), tail[:size]), size
    elif type(data) is bytes:
        tensor, used = Tensor(name, datatype, check_shape(shape, f"tensor '{name}'"), data), 0
    else:
        raise CodecError(f"tensor '{name}': data must be binary, not {type(data).__name__}")
    return tensor, used


def names_of(value: object) -> tuple[str, ...]:
    """The names of wanted outputs.

    Raises:
        CodecError: not a list of names, or too many.
    """
    if (
        not isinstance(value, list | tuple)
        or not all(type(name) is str for name in value)
        or len(value) > v2.MAX_TENSORS
    ):
        raise CodecError(f"'outputs' must be a list of at most {v2.MAX_TENSORS} names")
    return tuple(value)


def reply_names(head: dict[str, Any]) -> tuple[str, str]:
    """Model and version of a reply's head.

    Raises:
        CodecError: the wire version is unknown, or a name is missing.
    """
    if head.get("v") != WIRE_VERSION:
        raise CodecError(f"reply has wire version {quoted(head.get('v'))}; this reader speaks {WIRE_VERSION}")
    model, version = head.get("model_name"), head.get("model_version")
    if type(model) is not str or type(version) is not str:
        raise CodecError(f"reply lacks its model's name or version: {quoted(model)}, {quoted(version)}")
    return model, version


def known_layout(head: memoryview, tail: memoryview, *, reply: bool) -> Layout | None:
    """The layout of a plain head whose tail has the right size; None if the full decoder is needed."""
    if len(head) > _HEAD_BYTES:
        return None
    layout = _layout(bytes(head), reply)
    return layout if layout is not None and layout.size == len(tail) else None
