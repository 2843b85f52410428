from __future__ import annotations

import math
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from gateway.aliases.comparison import ABSOLUTE, RELATIVE, compare
from protocol.tensors import Tensor, from_array

_FLOATS = hnp.arrays(np.float32, hnp.array_shapes(max_dims=2, max_side=4, min_side=0), elements=st.floats(width=32))


def tensors(*arrays: Any) -> list[Tensor]:
    return [from_array(f"OUT{n}", np.asarray(array)) for n, array in enumerate(arrays)]


@given(array=_FLOATS)
def test_an_answer_agrees_with_itself(array: Any) -> None:
    agreement = compare(tensors(array), tensors(array.copy()))

    assert (agreement.result, agreement.absolute) == ("equal", 0.0)


@given(first=_FLOATS, data=st.data())
@settings(deadline=None)
def test_close_means_within_the_tolerance_as_numpy_has_it(first: Any, data: st.DataObject) -> None:
    second = data.draw(hnp.arrays(np.float32, first.shape, elements=st.floats(width=32)))

    agreement = compare(tensors(first), tensors(second))

    a, b = first.astype(np.float64), second.astype(np.float64)
    within = np.isclose(b, a, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True).all()
    assert (agreement.result != "different") == within
    assert agreement.absolute is not None
    assert not math.isnan(agreement.absolute)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([np.array([1], np.int32)], [np.array([2], np.int32)]),
        ([np.array([1], np.int32)], [np.array([1], np.int64)]),
        ([np.zeros((2, 1), np.float32)], [np.zeros((1, 2), np.float32)]),
        ([np.array([b"a"], object)], [np.array([b"b"], object)]),
        ([np.zeros(1, np.float32)], []),
        ([np.zeros(1, np.float32)], [np.full(1, np.nan, np.float32)]),
        ([np.zeros(1, np.float32)], [np.full(1, np.inf, np.float32)]),
    ],
)
def test_what_differs_is_different(first: list[Any], second: list[Any]) -> None:
    assert compare(tensors(*first), tensors(*second)).result == "different"


def test_bfloat16_is_compared_as_numbers() -> None:
    one = from_array("OUT", np.array([0x3F80], np.uint16), "BF16")
    more = from_array("OUT", np.array([0x4000], np.uint16), "BF16")

    assert compare([one], [more]).absolute == 1.0


def test_bytes_that_are_not_their_shape_are_different() -> None:
    assert (
        compare([Tensor("OUT", "FP32", (2,), b"1234")], [Tensor("OUT", "FP32", (2,), b"12345678")]).result
        == "different"
    )
