"""Whether the answer of a shadow version agrees with the answer that the caller got. Pure.

Numbers agree if they differ by at most `ABSOLUTE` plus `RELATIVE` times the caller's number: two builds of one model differ by
rounding, two models by more. NaN agrees with NaN, an infinity with the same infinity.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np

from protocol.errors import FleetError
from protocol.tensors import Array, Tensor

ABSOLUTE: Final = 1e-5
RELATIVE: Final = 1e-3
_SLICE: Final = 65536
"""Elements compared at a time: bounds the memory of a comparison."""
_FLOATS: Final = frozenset({"FP16", "BF16", "FP32", "FP64"})

Result = Literal["equal", "close", "different"]


@dataclasses.dataclass(frozen=True, slots=True)
class Agreement:
    """The result of a comparison.

    Attributes:
        absolute: the largest difference of two numbers; infinite if one is not finite; None if no numbers were compared.
        relative: the largest difference, divided by the caller's number; numbers below `ABSOLUTE` count as `ABSOLUTE`.
    """

    result: Result
    absolute: float | None = None
    relative: float | None = None


def compare(given: Sequence[Tensor], shadow: Sequence[Tensor]) -> Agreement:
    """Compare the outputs of two answers.

    Args:
        given: to the caller.
        shadow: by the shadow version.
    """
    others = {tensor.name: tensor for tensor in shadow}
    agreement = Agreement("equal", 0.0, 0.0)
    if {tensor.name for tensor in given} != set(others):
        return Agreement("different")
    for tensor in given:
        agreement = _worse(agreement, _compare(tensor, others[tensor.name]))
    return agreement


def _worse(first: Agreement, second: Agreement) -> Agreement:
    order: tuple[Result, ...] = ("equal", "close", "different")
    return Agreement(
        max(first.result, second.result, key=order.index),
        _larger(first.absolute, second.absolute),
        _larger(first.relative, second.relative),
    )


def _larger(first: float | None, second: float | None) -> float | None:
    known = [value for value in (first, second) if value is not None]
    return max(known, default=None)


def _compare(given: Tensor, other: Tensor) -> Agreement:
    if (given.datatype, tuple(given.shape)) != (other.datatype, tuple(other.shape)):
        return Agreement("different")
    if given.data == other.data:
        return Agreement("equal", 0.0, 0.0)
    if given.datatype not in _FLOATS:
        return Agreement("different")
    try:
        return _numbers(_floats(given), _floats(other))
    except FleetError:  # a model whose bytes do not have its shape
        return Agreement("different")


def _numbers(given: Array, other: Array) -> Agreement:
    absolute = relative = 0.0
    close = True
    for start in range(0, given.size, _SLICE):
        first = given[start : start + _SLICE].astype(np.float64)
        second = other[start : start + _SLICE].astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            differences = np.abs(first - second)
        same = (first == second) | (np.isnan(first) & np.isnan(second))
        differences[same] = 0.0
        differences[np.isnan(differences)] = math.inf
        sizes = np.abs(np.nan_to_num(first, nan=0.0, posinf=0.0, neginf=0.0))
        absolute = max(absolute, float(differences.max()))
        relative = max(relative, float((differences / np.maximum(sizes, ABSOLUTE)).max()))
        close = close and bool((differences <= ABSOLUTE + RELATIVE * sizes).all())
    return Agreement("close" if close else "different", absolute, relative)


def _floats(tensor: Tensor) -> Array:
    values = tensor.array().reshape(-1)
    if tensor.datatype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values
