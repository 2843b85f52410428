"""Turns JSON values into arrays of exactly the model's datatype, or raises an error that says what is wrong. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from protocol import bfloat16
from protocol.errors import CodecError
from protocol.json_data import pack_data
from protocol.tensors import MAX_RANK, Array, Tensor


def array_of(name: str, datatype: str, value: object) -> Array:
    """The array of an input: nothing is rounded to integers, wrapped or guessed.

    Args:
        name: the input's.
        datatype: V2's name; BF16 becomes its bits.
        value: numbers, booleans or strings, in lists of one length per level; or a single one.

    Raises:
        CodecError: it does not fit.
    """
    shape = _shape_of(name, value)
    data = value if isinstance(value, list) else [value]
    if datatype not in ("FP16", "BF16"):
        return Tensor(name, datatype, shape, pack_data(name, datatype, shape, data)).array()
    try:
        wide = Tensor(name, "FP64", shape, pack_data(name, "FP64", shape, data)).array()
    except CodecError as error:
        raise CodecError(error.message.replace("FP64", datatype)) from None
    with np.errstate(over="ignore"):
        array = wide.astype(np.float16 if datatype == "FP16" else np.float32)
    if not np.isfinite(array).all():
        raise CodecError(f"input '{name}': 'data' has a value outside the range of {datatype}")
    return array if datatype == "FP16" else bfloat16.to_bits(array)


def _shape_of(name: str, value: object, depth: int = 0) -> tuple[int, ...]:
    if not isinstance(value, list):
        return ()
    if depth == MAX_RANK:
        raise CodecError(f"input '{name}' has lists nested deeper than {MAX_RANK}")
    shapes: set[tuple[Any, ...]] = {_shape_of(name, item, depth + 1) for item in value}
    if len(shapes) > 1:
        raise CodecError(f"input '{name}' has lists of different lengths, or values beside lists: it is not a tensor")
    return (len(value), *next(iter(shapes), ()))
