"""Triton's classification extension: an output's highest elements as text, `value:index[:label]`. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from protocol.errors import InvalidArgument
from protocol.tensors import Array, Tensor, element_count
from protocol.v2 import RequestedOutput

MAX_CLASSES: Final = 1_000_000
"""Elements of an output that may be classified, as in Triton."""
QUICK: Final = 2048
"""Texts that an event loop makes itself, in about a millisecond; it looks through `_SCAN` times as many elements in that time."""
_SCAN: Final = 32
_DATATYPES: Final = frozenset(
    {"UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP32", "FP64"}
)
_LENGTH: Final = struct.Struct("<I")
_NO_LABELS: Final[Mapping[str, Sequence[str]]] = {}


def wanted(asked: Iterable[RequestedOutput]) -> dict[str, int]:
    """How many classes are asked for, by the names of the outputs that are classified."""
    return {output.name: output.classes for output in asked if output.classes}


def takes_long(outputs: Sequence[Tensor], classes: Mapping[str, int], batches: bool) -> bool:
    """Whether `classify` would occupy an event loop for more than a millisecond or two."""
    texts = elements = 0
    for tensor in outputs:
        if tensor.name in classes:
            count = element_count(tensor.shape)
            rows = tensor.shape[0] if batches and tensor.shape else 1
            texts += min(count, rows * classes[tensor.name])
            elements += count
    return texts > QUICK or elements > QUICK * _SCAN


def classify(
    outputs: Sequence[Tensor],
    asked: Sequence[RequestedOutput],
    batches: bool,
    labels: Mapping[str, Sequence[str]] = _NO_LABELS,
) -> tuple[Tensor, ...]:
    """The outputs, those with `classes` as BYTES of shape `[rows,] min(classes, elements of a row)`.

    Each element is `value:index`, and `:label` if there is one; descending, equal values in the order of their indices, NaN last.

    Args:
        batches: whether the first dimension counts rows; otherwise all elements are one row.
        labels: by output, the names of its classes.

    Raises:
        InvalidArgument: the datatype has no order, or there are more than `MAX_CLASSES` elements.
    """
    return classify_named(outputs, wanted(asked), batches, labels)


def classify_named(
    outputs: Sequence[Tensor], classes: Mapping[str, int], batches: bool, labels: Mapping[str, Sequence[str]]
) -> tuple[Tensor, ...]:
    """As `classify`, with the number of classes by the output's name."""
    return tuple(
        [
            _classified(tensor, classes[tensor.name], batches, labels.get(tensor.name, ()))
            if tensor.name in classes
            else tensor
            for tensor in outputs
        ]
    )


def _classified(tensor: Tensor, most: int, batches: bool, labels: Sequence[str]) -> Tensor:
    if tensor.datatype not in _DATATYPES:
        raise InvalidArgument(f"class result not available for output due to unsupported type '{tensor.datatype}'")
    count = element_count(tensor.shape)
    if count > MAX_CLASSES:
        raise InvalidArgument(
            f"class result not available for output '{tensor.name}': it has {count} elements; at most {MAX_CLASSES} are allowed"
        )
    has_rows = batches and bool(tensor.shape)
    rows = tensor.shape[0] if has_rows else 1
    width = element_count(tensor.shape[1:]) if has_rows else count
    kept = min(most, width)
    texts: list[bytes] = []
    for row in tensor.array().reshape(rows, width):
        texts += _texts(row, _highest(row, kept), labels)
    shape = (rows, kept) if has_rows else (kept,)
    return Tensor(tensor.name, "BYTES", shape, b"".join([_LENGTH.pack(len(text)) + text for text in texts]))


def _highest(row: Array, count: int) -> Array:
    """Indices of the highest elements, the highest first."""
    keys = -row if row.dtype.kind == "f" else ~row  # ascending where the row descends; ~ has no overflow
    if not count:
        return np.empty(0, np.intp)
    if count < len(keys):
        limit = np.partition(keys, count - 1)[count - 1]
        chosen = np.flatnonzero(keys <= limit) if limit == limit else np.arange(len(keys))  # NaN
    else:
        chosen = np.arange(len(keys))
    order: Array = chosen[np.argsort(keys[chosen], kind="stable")[:count]]
    return order


def _texts(row: Array, indices: Array, labels: Sequence[str]) -> list[bytes]:
    form = "%f:%d" if row.dtype.kind == "f" else "%d:%d"
    named = len(labels)
    texts = []
    for value, index in zip(row[indices].tolist(), indices.tolist(), strict=True):
        text = form % (value, index)
        texts.append((f"{text}:{labels[index]}" if index < named and labels[index] else text).encode())
    return texts
