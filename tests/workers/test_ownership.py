"""Outputs that a model may write to again are copied, and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from protocol.tensors import Array
from workers.backends.ownership import own

BUFFER = np.zeros((4, 3), np.float32)
TEXTS = np.array([[b"a"], [b"b"]], dtype=object)


def _from_a_function() -> Array:
    made = np.arange(6)
    view: Array = made[2:].reshape(2, 2)
    return view


@pytest.mark.parametrize(
    "make",
    [
        lambda: BUFFER,
        lambda: BUFFER[:2],
        lambda: BUFFER[1:][:2].reshape(-1),
        lambda: BUFFER.T,
        lambda: TEXTS,
        lambda: TEXTS[:1],
        lambda: np.frombuffer(memoryview(BUFFER).cast("B"), np.uint8),
        lambda: np.asarray(memoryview(BUFFER)),
        lambda: np.ndarray((2,), np.float32, buffer=bytearray(8)),
        lambda: np.from_dlpack(BUFFER),
    ],
)
def test_what_somebody_else_can_write_to_is_copied(make: Callable[[], Array]) -> None:
    given = make()
    before = given.tolist()
    arrays = own({"Y": given})

    assert not np.shares_memory(arrays["Y"], given)
    assert arrays["Y"].tolist() == before
    assert arrays["Y"].dtype == given.dtype


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.ones((2, 3)),
        lambda: np.ones(6).reshape(2, 3),
        lambda: np.ones((4, 3))[1:, ::2].T,
        lambda: np.broadcast_to(np.ones(1), (3, 1)),
        lambda: np.array([b"x"], dtype=object),
        _from_a_function,
    ],
)
def test_what_nobody_else_refers_to_is_not_copied(make: Callable[[], Array]) -> None:
    arrays = {"Y": make(), "Z": make()}
    pointers = {name: arrays[name].__array_interface__["data"][0] for name in arrays}
    arrays = own(arrays)

    assert {name: arrays[name].__array_interface__["data"][0] for name in arrays} == pointers


def test_one_array_under_two_names_becomes_two() -> None:
    made = np.ones(3)
    arrays = {"Y": made, "Z": made}
    del made
    arrays = own(arrays)

    assert not np.shares_memory(arrays["Y"], arrays["Z"])


@pytest.mark.parametrize("value", [None, 3, [1.0], "text"])
def test_what_is_no_array_is_left_to_the_check_of_the_outputs(value: Any) -> None:
    assert own({"Y": value}) == {"Y": value}
