"""Copies arrays that the model may still write to. Pure.

A model may return a buffer that it reuses for its next batch, or a view of one. Its outputs are encoded while that batch runs, so
the worker must own them by then. It owns an array if nothing else refers to it, and its memory is its own or that of another array
to which nothing else refers: such arrays, which most models return, are not copied.
"""

from __future__ import annotations

import sys

import numpy as np

from protocol.tensors import Array


def own(arrays: dict[str, Array]) -> dict[str, Array]:
    """The same values in memory that no other object can write to.

    Args:
        arrays: belongs to the caller and is changed; nothing but it refers to arrays that need not be copied. Values that are not
            arrays stay: the check of the outputs refuses them.
    """
    for name in arrays:  # noqa: PLC0206  # a variable with the value would be one more reference to it
        if not _is_own(arrays, name):
            arrays[name] = arrays[name].copy()
    return arrays


def _is_own(arrays: dict[str, Array], name: str) -> bool:
    array = arrays[name]
    if not isinstance(array, np.ndarray):
        return True
    if sys.getrefcount(array) > _ALONE:
        return False
    base = array.base
    if base is None:
        return array.flags.owndata
    if not isinstance(base, np.ndarray) or base.base is not None or not base.flags.owndata:
        return False
    return sys.getrefcount(base) <= _BASE_ALONE


def _measured(arrays: dict[str, Array], name: str) -> tuple[int, int]:
    """The counts that `_is_own` sees of an array, and of the one below it, to which nothing else refers."""
    array = arrays[name]
    base = array.base
    return sys.getrefcount(array), sys.getrefcount(base)


_ALONE, _BASE_ALONE = _measured({"": np.empty(2).reshape(1, 2)}, "")
"""The interpreter's own references also count, and differ between its versions."""
