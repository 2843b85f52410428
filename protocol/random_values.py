"""The values of made-up inputs, for everything that makes some: one distribution per datatype. Pure.

| datatype | values | so that |
| --- | --- | --- |
| FP16, BF16, FP32, FP64 | uniform from 0 to 1 | roots and logarithms exist; pixels, probabilities and weights are of that range |
| integers | 0 or 1 | they may be token ids or other indices: any table has two rows; a length or a mask of 1 is valid, too |
| BOOL | false or true | |
| BYTES | `text 0` to `text 999` | they are UTF-8, not empty, and mostly differ |

The page at `/` makes its own, by the same table (`gateway/page/static/tensors.js`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from protocol import bfloat16
from protocol.tensors import NUMPY_DTYPE, Array

INTEGERS: Final = 2
"""Integers are below this."""
TEXTS: Final = 1000
"""As many different texts there are."""


def random_values(datatype: str, shape: Sequence[int], generator: np.random.Generator) -> Array:
    """An array of random values; see the table above.

    Args:
        datatype: of V2; BF16 comes as its 16 bits.
        shape: without free sizes.
        generator: equal ones give equal values.
    """
    dtype, sizes = NUMPY_DTYPE[datatype], tuple(shape)
    if datatype == "BYTES":
        texts = np.empty(sizes, dtype=object)
        texts.reshape(-1)[:] = [b"text %d" % number for number in generator.integers(0, TEXTS, texts.size)]
        return texts
    if datatype == "BF16":
        return bfloat16.to_bits(_below_one(generator, sizes))
    if dtype.kind == "f":
        return _below_one(generator, sizes).astype(dtype)
    return np.asarray(generator.integers(0, INTEGERS, sizes, np.uint8)).astype(dtype)


def _below_one(generator: np.random.Generator, sizes: tuple[int, ...]) -> Array:
    return np.asarray(generator.random(sizes, np.float32))
