"""Tensors as the Open Inference Protocol (V2) defines them: a name, a datatype, a shape and raw little-endian bytes.

Invariants: row-major, no padding; a BYTES element is a 4-byte little-endian length followed by that many bytes; shapes count
elements, not bytes. Decoding never copies: `Tensor.array()` is a view of the buffer it came in.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from protocol.errors import CodecError

Array = npt.NDArray[Any]
Buffer = bytes | memoryview

MAX_RANK: Final = 32
MAX_ELEMENTS: Final = 2**40

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


def check_shape(shape: Sequence[object], where: str) -> tuple[int, ...]:
    """The shape as a tuple of non-negative integers of bounded rank and product.

    Raises:
        CodecError: naming `where` the shape was met.
    """
    if len(shape) > MAX_RANK:
        raise CodecError(f"{where} has {len(shape)} dimensions; at most {MAX_RANK} are allowed")
    count = 1
    for size in shape:
        if type(size) is not int or size < 0:
            raise CodecError(f"{where} has shape {list(shape)!r}; every size must be a non-negative integer")
        count *= size
    if count > MAX_ELEMENTS:
        raise CodecError(f"{where} has {count} elements; at most {MAX_ELEMENTS} are allowed")
    return tuple(shape)  # type: ignore[arg-type]  # each was just seen to be an int


def check_size(tensor: Tensor) -> None:
    """Check that the data holds exactly the elements that datatype and shape promise.

    Raises:
        CodecError: with Triton's wording, which clients match on.
    """
    item = ITEM_SIZE[tensor.datatype]
    if item == 0:
        bytes_elements(tensor)
        return
    expected = element_count(tensor.shape) * item
    if len(tensor.data) != expected:
        raise CodecError(
            f"input byte size mismatch for input '{tensor.name}'. Expected {expected}, got {len(tensor.data)}"
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
    """A tensor that shares the array's memory where it is contiguous and little-endian.

    Args:
        name: the tensor's name.
        array: any array; object, `S` and `U` arrays become BYTES.
        datatype: the V2 datatype, where NumPy's dtype does not say it (BF16).

    Raises:
        CodecError: the dtype has no V2 datatype.
    """
    if array.dtype.kind in "OSU":
        return Tensor(name, "BYTES", array.shape, pack_bytes(array.ravel().tolist()))
    if datatype is None:
        datatype = datatype_of(array.dtype)
    shape = array.shape  # NumPy's function makes one dimension of none
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
    """The elements with their 4-byte little-endian lengths; text is UTF-8."""
    parts: list[bytes] = []
    for element in elements:
        raw = element.encode() if isinstance(element, str) else bytes(element)
        parts.append(struct.pack("<I", len(raw)))
        parts.append(raw)
    return b"".join(parts)


def bytes_elements(tensor: Tensor) -> list[bytes]:
    """The elements of a BYTES tensor.

    Raises:
        CodecError: the framing is broken or the number of elements is not the shape's.
    """
    data, position, elements = tensor.data, 0, []
    expected = element_count(tensor.shape)
    while position < len(data):
        if position + 4 > len(data):
            raise CodecError(f"incomplete string length indicator for input '{tensor.name}' at byte {position}")
        (size,) = struct.unpack_from("<I", data, position)
        position += 4
        if position + size > len(data):
            raise CodecError(
                f"incomplete string data for input '{tensor.name}' at byte {position}: expected {size} bytes"
            )
        elements.append(bytes(data[position : position + size]))
        position += size
        if len(elements) > expected:
            break
    if len(elements) != expected:
        raise CodecError(f"expected {expected} string elements for input '{tensor.name}', got {len(elements)} or more")
    return elements
