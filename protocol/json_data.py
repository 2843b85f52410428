"""A V2 input's JSON `data` (lists of numbers, booleans or strings, flat or nested) to the tensor's raw bytes. Pure.

Invariant: no value is rounded, wrapped or guessed; the time is proportional to the number of values.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from protocol.errors import CodecError
from protocol.tensors import NUMPY_DTYPE, element_count, pack_bytes

MAX_DEPTH: Final = 100
"""Nesting of JSON lists, as Triton's."""
_PACKED: Final[dict[str, tuple[str, frozenset[type]]]] = {
    "BOOL": ("?", frozenset({bool})),
    "FP32": ("f", frozenset({float, int})),
    "FP64": ("d", frozenset({float, int})),
} | {
    name: (code, frozenset({int}))
    for name, code in zip(
        ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"), "bhiqBHIQ", strict=True
    )
}


def pack_data(name: str, datatype: str, shape: tuple[int, ...], data: object) -> bytes:
    """The raw bytes of an input with JSON `data`.

    Raises:
        CodecError: names the fault.
    """
    if datatype in ("FP16", "BF16"):
        raise CodecError(
            f"receiving {datatype} data via JSON is not supported. Please use the binary data format for input {name}"
        )
    if type(data) is not list:
        raise CodecError(f"input '{name}': 'data' must be a list")
    if datatype == "BYTES":
        strings = _leaves(name, data)
        _check_count(name, shape, len(strings))
        if not {str}.issuperset(map(type, strings)):
            raise CodecError(
                f"input '{name}': 'data' of datatype BYTES must hold strings; other bytes need the binary format"
            )
        return pack_bytes(strings)
    if (flat := _flat(datatype, data)) is not None:
        _check_count(name, shape, len(data))
        return flat
    array = _numbers(name, datatype, data)
    _check_count(name, shape, array.size)
    return array.tobytes()


def packer(datatype: str, count: int) -> Callable[..., bytes] | None:
    """Packs `count` numbers; None if the datatype's JSON is not numbers. It takes True for 1.

    Everything but numbers in its range, and another count, makes it raise `struct.error` or OverflowError.
    """
    if datatype == "BOOL" or datatype not in _PACKED:
        return None
    return struct.Struct(f"<{count}{_PACKED[datatype][0]}").pack


def _check_count(name: str, shape: tuple[int, ...], count: int) -> None:
    if count != element_count(shape):
        raise CodecError(
            f"Unable to parse 'data': Shape does not match true shape of 'data' field: input '{name}' has shape "
            f"{list(shape)} ({element_count(shape)} elements) and {count} elements of data"
        )


def _leaves(name: str, data: list[Any]) -> list[Any]:
    """The values of a list and of the lists in it; each is visited once, however deep."""
    if list not in set(map(type, data)):
        return data
    leaves: list[Any] = []
    waiting = [iter(data)]
    while waiting:
        for item in waiting[-1]:
            if type(item) is list:
                if len(waiting) == MAX_DEPTH:
                    raise CodecError(f"input '{name}': 'data' is nested deeper than {MAX_DEPTH}")
                waiting.append(iter(item))
                break
            leaves.append(item)
        else:
            waiting.pop()
    return leaves


def _flat(datatype: str, data: list[Any]) -> bytes | None:
    """The bytes of a flat list of numbers that all fit, ten times as fast as with NumPy; None leaves the list to `_numbers`."""
    code, kinds = _PACKED[datatype]
    if not kinds.issuperset(set(map(type, data))):
        return None
    try:
        return struct.pack(f"<{len(data)}{code}", *data)
    except (struct.error, OverflowError):
        return None


def _numbers(name: str, datatype: str, data: list[Any]) -> np.ndarray[Any, Any]:
    """The list as an array of exactly this datatype."""
    wanted = NUMPY_DTYPE[datatype]
    depth, inner = 1, data
    while inner and type(inner[0]) is list:
        inner = inner[0]
        depth += 1
    if depth > MAX_DEPTH:
        raise CodecError(f"input '{name}': 'data' is nested deeper than {MAX_DEPTH}")
    try:
        array = np.array(data)
    except (ValueError, OverflowError):
        raise CodecError(f"input '{name}': 'data' must be flat or nested in the tensor's shape") from None
    if not _PACKED[datatype][1].issuperset(map(type, _leaves(name, data))):  # NumPy reads true among numbers as 1
        raise CodecError(f"input '{name}': 'data' must hold only values of datatype {datatype}")
    if array.dtype == wanted or array.size == 0:
        return array if array.size else np.empty(0, wanted)
    kind = array.dtype.kind
    if wanted.kind == "f" and kind in "fiu":
        return _narrow_float(name, datatype, array, wanted)
    if wanted.kind in "iu":
        if kind not in "iu":  # NumPy turns integers on both sides of 2**63 into floats: check each
            array = np.array(data, dtype=object)
        limits = np.iinfo(wanted)
        if int(array.min()) >= limits.min and int(array.max()) <= limits.max:
            return array.astype(wanted)
        raise CodecError(f"input '{name}': 'data' has a value outside the range of {datatype}")
    raise CodecError(f"input '{name}': 'data' must hold only values of datatype {datatype}")


def _narrow_float(name: str, datatype: str, array: np.ndarray[Any, Any], wanted: np.dtype[Any]) -> np.ndarray[Any, Any]:
    with np.errstate(over="ignore"):
        narrowed = array.astype(wanted)
    if not np.isfinite(narrowed).all():
        raise CodecError(f"input '{name}': 'data' has a value outside the range of {datatype}")
    return narrowed
