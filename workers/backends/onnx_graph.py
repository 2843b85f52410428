"""Reads from an ONNX file what onnxruntime does not tell: which tensors are scalars, and whose operators it uses. Pure.

The file is protocol buffers: fields of a number and a type, nested. Only the graph's own fields are walked, none is copied, so that
a file of gigabytes, mapped into memory, is read in milliseconds.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Final

_Data = bytes | mmap.mmap

_GRAPH: Final = 7
"""Field of a ModelProto."""
_OPSET: Final = 8
"""Field of a ModelProto."""
_DOMAIN: Final = 1
"""Field of an OperatorSetIdProto."""
_INPUT: Final = 11
_OUTPUT: Final = 12
"""Fields of a GraphProto."""
_NAME: Final = 1
_TYPE: Final = 2
"""Fields of a ValueInfoProto."""
_TENSOR: Final = 1
"""Field of a TypeProto."""
_SHAPE: Final = 2
"""Field of a TypeProto.Tensor."""
_DIM: Final = 1
"""Field of a TensorShapeProto."""

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5


def scalars(data: _Data) -> frozenset[str]:
    """The inputs and outputs that the file states to have no dimension; none if this is no ONNX file.

    Args:
        data: the file.
    """
    try:
        return frozenset(_scalars(data))
    except (IndexError, ValueError):  # not protocol buffers, as onnxruntime's own format
        return frozenset()


def other_domains(data: _Data) -> frozenset[str]:
    """The domains of its operators, without ONNX's own; none if this is no ONNX file.

    Args:
        data: the file.
    """
    try:
        names = {
            data[slice(*place)].decode()
            for opset in _fields(data, 0, len(data), _OPSET)
            for place in _fields(data, *opset, _DOMAIN)
        }
        return frozenset(names - {"", "ai.onnx"})
    except (IndexError, ValueError):
        return frozenset()


def _scalars(data: _Data) -> Iterator[str]:
    for start, end in _fields(data, 0, len(data), _GRAPH):
        for kind in (_INPUT, _OUTPUT):
            for value in _fields(data, start, end, kind):
                types = [place for outer in _fields(data, *value, _TYPE) for place in _fields(data, *outer, _TENSOR)]
                shapes = [shape for place in types for shape in _fields(data, *place, _SHAPE)]
                if shapes and not any(list(_fields(data, *shape, _DIM)) for shape in shapes):
                    yield from (data[slice(*place)].decode() for place in _fields(data, *value, _NAME))


def _fields(data: _Data, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Where the fields with this number and a length begin and end.

    Raises:
        IndexError, ValueError: this is not a message.
    """
    while start < end:
        tag, start = _varint(data, start)
        number, kind = tag >> 3, tag & 7
        if kind == _BYTES:
            size, start = _varint(data, start)
            if start + size > end:
                raise ValueError("a field ends outside its message")
            if number == wanted:
                yield start, start + size
            start += size
        elif kind == _VARINT:
            start = _varint(data, start)[1]
        elif kind in (_FIXED64, _FIXED32):
            start += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("not a message")


def _varint(data: _Data, start: int) -> tuple[int, int]:
    """A number of seven bits per byte, and where it ends."""
    value = shift = 0
    while True:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
        if shift > 63:
            raise ValueError("not a number")
