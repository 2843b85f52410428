"""Tensors as the Open Inference Protocol (V2) defines them: a name, a datatype, a shape and raw little-endian bytes. Pure.

Invariants: row-major, no padding; a BYTES element is a 4-byte little-endian length followed by that many bytes; shapes count
elements, not bytes. Decoding never copies: `Tensor.array()` is a view of the buffer it came in.
"""

from __future__ import annotations

import dataclasses
import itertools
import struct
from collections.abc import Sequence
from typing import Any, Final, NoReturn, cast

import numpy as np
import numpy.typing as npt

from protocol.errors import CodecError, SizeError, quoted

Array = npt.NDArray[Any]
Buffer = bytes | memoryview

MAX_RANK: Final = 32
MAX_ELEMENTS: Final = 2**40
_SLICE: Final = 4096
"""Elements packed in one C call, which takes less than a millisecond."""
MANY: Final = 2048
"""BYTES elements that an event loop checks itself, at 0.1 to 0.4 µs each; more are left to another thread or process."""

_LENGTH: Final = struct.Struct("<I")
_RUN: Final = 32
"""Consecutive elements of one length after which further ones are counted in bulk."""

ITEM_SIZE: Final[dict[str, int]] = {
    "BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8,
    "FP16": 2, "FP32": 4, "FP64": 8, "BF16": 2, "BYTES": 0,
}  # fmt: skip
"""Bytes per element by V2 datatype; 0 for BYTES, whose elements vary."""

NUMPY_DTYPE: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"), "UINT8": np.dtype("u1"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"), "INT8": np.dtype("i1"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"), "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"),
    "BF16": np.dtype("<u2"), "BYTES": np.dtype("O"),
}  # fmt: skip
"""NumPy's dtype by V2 datatype. NumPy has no bfloat16: BF16 is carried as its 16 raw bits."""

_DATATYPE_BY_DTYPE: Final[dict[str, str]] = {
    dtype.str: name for name, dtype in NUMPY_DTYPE.items() if name not in ("BF16", "BYTES")
}


class ManyElements(Exception):
    """There are more BYTES elements than an event loop should check: repeat the call in another thread or process."""


@dataclasses.dataclass(slots=True)
class Tensor:
    """One named tensor. Treated as immutable once made.

    Attributes:
        name: the model's name for it.
        datatype: a key of `ITEM_SIZE`.
        shape: sizes per dimension, each >= 0; for a batching model the first is the number of rows.
        data: raw little-endian bytes, or a view of them.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer

    def array(self) -> Array:
        """A view of the data with this shape; for BYTES an object array of `bytes` (copied).

        Raises:
            CodecError: the byte count does not match datatype and shape.
        """
        return to_array(self)


def element_count(shape: Sequence[int]) -> int:
    """The product of the sizes; 1 for a scalar, 0 when any size is 0."""
    count = 1
    for size in shape:
        count *= size
    return count


def spend(most: int, datatype: str, shape: Sequence[int]) -> int:
    """How many BYTES elements may still be checked after those of one tensor.

    Raises:
        ManyElements: it has more than `most`.
    """
    if datatype == "BYTES":
        most -= element_count(shape)
        if most < 0:
            raise ManyElements
    return most


def check_shape(shape: Sequence[object], where: str) -> tuple[int, ...]:
    """The shape as a tuple of non-negative integers of bounded rank and product.

    Raises:
        CodecError: the message begins with `where`.
    """
    if len(shape) > MAX_RANK:
        raise CodecError(f"{where} has {len(shape)} dimensions; at most {MAX_RANK} are allowed")
    count = 1
    for size in shape:
        if type(size) is not int or size < 0:
            raise CodecError(f"{where} has shape {quoted(list(shape))}; every size must be a non-negative integer")
        count *= size
    if count > MAX_ELEMENTS:
        raise CodecError(f"{where} has {count} elements; at most {MAX_ELEMENTS} are allowed")
    return tuple(shape)  # type: ignore[arg-type]  # each was just checked to be an int


def check_size(tensor: Tensor) -> None:
    """Check that the data has exactly the elements of datatype and shape.

    Raises:
        CodecError: with Triton's wording, which clients match on.
    """
    item = ITEM_SIZE[tensor.datatype]
    if item == 0:
        check_bytes(tensor)
        return
    expected = element_count(tensor.shape) * item
    if len(tensor.data) != expected:
        raise SizeError(
            f"input byte size mismatch for input '{tensor.name}'", f". Expected {expected}, got {len(tensor.data)}"
        )


def to_array(tensor: Tensor) -> Array:
    """See `Tensor.array`."""
    if tensor.datatype == "BYTES":
        elements = np.empty(element_count(tensor.shape), dtype=object)
        elements[:] = bytes_elements(tensor)
        return elements.reshape(tensor.shape)
    try:
        return np.frombuffer(tensor.data, NUMPY_DTYPE[tensor.datatype]).reshape(tensor.shape)
    except ValueError:
        check_size(tensor)
        raise CodecError(f"tensor '{tensor.name}' cannot be read as {tensor.datatype}{list(tensor.shape)}") from None


def from_array(name: str, array: Array, datatype: str | None = None) -> Tensor:
    """A tensor that shares the array's memory if that is contiguous and little-endian.

    Args:
        name: the tensor's name.
        array: any array; object, `S` and `U` arrays become BYTES.
        datatype: the V2 datatype, if NumPy's dtype does not determine it (BF16).

    Raises:
        CodecError: the dtype has no V2 datatype.
    """
    if array.dtype.kind in "OSU":
        return Tensor(name, "BYTES", array.shape, pack_bytes(array.ravel().tolist()))
    if datatype is None:
        datatype = datatype_of(array.dtype)
    shape = array.shape  # ascontiguousarray turns a scalar into one dimension
    array = np.ascontiguousarray(array, NUMPY_DTYPE[datatype])
    return Tensor(name, datatype, shape, memoryview(array.reshape(-1)).cast("B") if array.size else b"")  # type: ignore[arg-type]  # ndarray is a buffer


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The V2 datatype of a NumPy dtype.

    Raises:
        CodecError: there is none.
    """
    name = _DATATYPE_BY_DTYPE.get(dtype.newbyteorder("<").str)
    if name is None:
        if dtype.kind in "OSU":
            return "BYTES"
        raise CodecError(f"NumPy dtype {dtype} has no V2 datatype")
    return name


def pack_bytes(elements: Sequence[bytes | str]) -> bytes:
    """The elements with their 4-byte little-endian lengths; text is UTF-8.

    Raises:
        CodecError: an element is neither bytes nor text.
    """
    if len(elements) <= _SLICE:
        return _pack_slice(elements)
    # One call over millions of elements would hold the interpreter's lock until it ends.
    return b"".join([_pack_slice(elements[start : start + _SLICE]) for start in range(0, len(elements), _SLICE)])


def _pack_slice(elements: Sequence[bytes | str]) -> bytes:
    kinds = set(map(type, elements))
    if kinds <= {bytes}:
        raw = cast("Sequence[bytes]", elements)
    elif kinds == {str}:
        raw = list(map(str.encode, cast("Sequence[str]", elements)))
    else:
        raw = [_raw(element) for element in elements]
    lengths = map(_LENGTH.pack, map(len, raw))
    return b"".join(itertools.chain.from_iterable(zip(lengths, raw, strict=True)))


def _raw(element: object) -> bytes:
    if isinstance(element, str):
        return element.encode()
    if isinstance(element, bytes | bytearray | memoryview):
        return bytes(element)
    raise CodecError(f"an element of type {type(element).__name__} cannot be BYTES: it must be bytes or text")


def bytes_elements(tensor: Tensor) -> list[bytes]:
    """The elements of a BYTES tensor.

    Raises:
        CodecError: the framing is broken or the number of elements is not the shape's.
    """
    data, expected = bytes(tensor.data), element_count(tensor.shape)
    _check_room(tensor, expected)
    elements: list[bytes] = []
    position, end, unpack = 0, len(data), _LENGTH.unpack_from
    while position < end and len(elements) <= expected:
        start = position + 4
        if start > end:
            _refuse_length(tensor, position)
        (size,) = unpack(data, position)
        position = start + size
        if position > end:
            _refuse_data(tensor, start, size)
        elements.append(data[start:position])
    if len(elements) != expected:
        _refuse_count(tensor, expected, len(elements))
    return elements


def check_bytes(tensor: Tensor) -> None:
    """Check a BYTES tensor as `bytes_elements` does, without making its elements; runs of equal lengths are checked in bulk.

    Raises:
        CodecError: as `bytes_elements`.
    """
    data, expected = memoryview(tensor.data), element_count(tensor.shape)
    _check_room(tensor, expected)
    position, end, unpack = 0, len(data), _LENGTH.unpack_from
    count, run, last, worth = 0, 0, -1, _RUN
    while position < end and count <= expected:
        start = position + 4
        if start > end:
            _refuse_length(tensor, position)
        (size,) = unpack(data, position)
        position = start + size
        if position > end:
            _refuse_data(tensor, start, size)
        count += 1
        run = run + 1 if size == last else 0
        last = size
        if run == worth:
            more = _equal_from(data[position:], size)
            position += more * (4 + size)
            count += more
            run, worth = 0, _RUN if more > worth else 2 * worth
    if count != expected:
        _refuse_count(tensor, expected, min(count, expected + 1))


def _equal_from(data: memoryview, size: int) -> int:
    """How many elements of this length `data` begins with, in time proportional to their number."""
    step, found = 4 + size, 0
    most, window = len(data) // step, 4 * _RUN
    while found < most:
        count = min(window, most - found)
        lengths = np.ndarray((count,), "<u4", data, found * step, (step,))
        others = np.flatnonzero(lengths != size)
        if others.size:
            return found + int(others[0])
        found += count
        window *= 2
    return found


def _check_room(tensor: Tensor, expected: int) -> None:
    """Refuse a shape with more elements than the data can hold, without walking the data."""
    room = -(-len(tensor.data) // 4)
    if room < expected:
        raise SizeError(
            f"expected {expected} string elements for inference input '{tensor.name}'", f", got {room} or fewer"
        )


def _refuse_length(tensor: Tensor, position: int) -> NoReturn:
    raise SizeError(
        f"incomplete string length indicator for inference input '{tensor.name}'",
        f", expecting 4 bytes but only {len(tensor.data) - position} bytes available. Please make sure the string length "
        "indicator is in one buffer.",
    )


def _refuse_data(tensor: Tensor, position: int, size: int) -> NoReturn:
    raise SizeError(
        f"incomplete string data for inference input '{tensor.name}', expecting string of length {size} but only "
        f"{len(tensor.data) - position} bytes available",
        names_request=False,
    )


def _refuse_count(tensor: Tensor, expected: int, count: int) -> NoReturn:
    where = f"for inference input '{tensor.name}'"
    if count > expected:
        raise SizeError(f"unexpected number of string elements {count} {where}", f", expecting {expected}")
    raise SizeError(f"expected {expected} string elements {where}", f", got {count}")
