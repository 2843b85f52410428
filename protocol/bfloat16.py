"""bfloat16, which NumPy does not have: the upper half of a float32's bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protocol.tensors import Array


def to_bits(values: npt.ArrayLike) -> Array:
    """The nearest bfloat16 of each value, ties to even, as its 16 bits; NaN stays NaN."""
    floats = np.asarray(values, np.float32)
    wide = floats.view(np.uint32)
    rounded = (wide + (0x7FFF + (wide >> 16 & 1))) >> 16
    return np.where(np.isnan(floats), wide >> 16 | 0x40, rounded).astype(np.uint16)


def to_floats(bits: Array) -> Array:
    """The values of bits, as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
