"""Typed `contents` of an input as raw bytes, converted by NumPy in bulk. Pure."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from protocol.errors import InvalidArgument
from protocol.tensors import NUMPY_DTYPE, Buffer, pack_bytes

_FIELDS: Final = {
    "bool_contents": "BOOL", "int_contents": "INT32", "int64_contents": "INT64", "uint_contents": "UINT32",
    "uint64_contents": "UINT64", "fp32_contents": "FP32", "fp64_contents": "FP64", "bytes_contents": "BYTES",
}  # fmt: skip
"""The fields, and the datatype that Triton names for each."""
_OF: Final = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
"""The field of each datatype; FP16 and BF16 have none."""
_NARROW: Final = frozenset({"INT8", "INT16", "UINT8", "UINT16"})
_SLICE: Final = 4096
"""Elements converted in one call, so that the interpreter's lock is not held long."""


def raw_bytes(name: str, datatype: str, contents: Any, model: str) -> Buffer:
    """The bytes of an input.

    Args:
        contents: an `InferTensorContents`.

    Raises:
        InvalidArgument: another field than the datatype's is filled, or a number is out of the datatype's range.
    """
    wanted = _OF.get(datatype)
    for field, _ in contents.ListFields():
        if field.name == wanted:
            continue
        where = f"unexpected explicit tensor data for input tensor '{name}' for model '{model}'"
        if wanted is not None and len(getattr(contents, wanted)):
            raise InvalidArgument(f"{where}, binary data was already supplied.")
        raise InvalidArgument(f"{where} of type '{_FIELDS[field.name]}', expected datatype '{datatype}'")
    if wanted is None:
        return b""
    values = getattr(contents, wanted)
    parts = [_packed(name, datatype, values[at : at + _SLICE]) for at in range(0, len(values), _SLICE)]
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _packed(name: str, datatype: str, values: list[Any]) -> Buffer:
    if datatype == "BYTES":
        return pack_bytes(values)
    dtype = NUMPY_DTYPE[datatype]
    if datatype in _NARROW:
        wide = np.array(values, np.int64)
        limits = np.iinfo(dtype)
        if wide.min() < limits.min or wide.max() > limits.max:
            raise InvalidArgument(
                f"input '{name}' has a number that {datatype} cannot hold; it has {limits.min} to {limits.max}"
            )
        return wide.astype(dtype).tobytes()
    return np.array(values, dtype).tobytes()
