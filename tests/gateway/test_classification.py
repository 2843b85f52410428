"""The classification extension: which elements, in which order, in which words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.outputs import classification
from gateway.outputs.classification import classify
from protocol.errors import InvalidArgument
from protocol.tensors import NUMPY_DTYPE, Tensor, bytes_elements, check_size, from_array
from protocol.v2 import RequestedOutput

NUMBERS = ["UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP32", "FP64"]


def classes(tensor: Tensor, count: int, *, batches: bool = False, labels: tuple[str, ...] = ()) -> list[str]:
    (made,) = classify([tensor], [RequestedOutput(tensor.name, classes=count)], batches, {tensor.name: labels})
    assert made.datatype == "BYTES"
    check_size(made)
    return [element.decode() for element in bytes_elements(made)]


@pytest.mark.parametrize(
    ("values", "count", "expected"),
    [  # as a Triton 2.51 answered
        (np.array([0.5, 2, 1], np.float32), 2, ["2.000000:1:dog", "1.000000:2:fish"]),
        (np.array([1e20, 1e-7], np.float32), 2, ["100000002004087734272.000000:0:cat", "0.000000:1:dog"]),
        (np.array([2**62 + 1, -5]), 2, ["4611686018427387905:0:cat", "-5:1:dog"]),
        (np.array([2**64 - 1, 3], np.uint64), 2, ["18446744073709551615:0:cat", "3:1:dog"]),
        (
            np.array([1, 1, 2, 2, 1, 2], np.float32),
            5,
            ["2.000000:2:fish", "2.000000:3", "2.000000:5", "1.000000:0:cat", "1.000000:1:dog"],
        ),
        (np.array([-128, 127], np.int8), 1, ["127:1:dog"]),
    ],
)
def test_the_words_are_tritons(values: np.ndarray, count: int, expected: list[str]) -> None:
    assert classes(from_array("Y", values), count, labels=("cat", "dog", "fish")) == expected


def test_each_row_of_a_batch_has_its_own_classes() -> None:
    tensor = from_array("Y", np.array([[[1, 2], [3, 4]], [[4, 4], [3, 3]]], np.float32))

    (made,) = classify([tensor], [RequestedOutput("Y", classes=2)], True, {})

    assert made.shape == (2, 2)
    assert bytes_elements(made) == [b"4.000000:3", b"3.000000:2", b"4.000000:0", b"4.000000:1"]


@pytest.mark.parametrize(("batches", "shape"), [(False, (4,)), (True, (2, 2))])
def test_no_more_classes_than_there_are(batches: bool, shape: tuple[int, ...]) -> None:
    tensor = from_array("Y", np.zeros((2, 2), np.int32))

    (made,) = classify([tensor], [RequestedOutput("Y", classes=2**62)], batches, {})

    assert made.shape == shape


@pytest.mark.parametrize(
    ("shape", "batches", "expected"), [((1, 0), True, (1, 0)), ((0,), False, (0,)), ((), True, (1,))]
)
def test_empty_and_scalar_outputs(shape: tuple[int, ...], batches: bool, expected: tuple[int, ...]) -> None:
    (made,) = classify([from_array("Y", np.zeros(shape, np.float32))], [RequestedOutput("Y", classes=3)], batches, {})

    assert made.shape == expected


def test_nan_is_last_and_an_empty_label_is_none() -> None:
    tensor = from_array("Y", np.array([np.nan, 1, np.inf, -np.inf], np.float64))

    assert classes(tensor, 4, labels=("a", "", "c")) == ["inf:2:c", "1.000000:1", "-inf:3", "nan:0:a"]
    assert classes(tensor, 3) == ["inf:2", "1.000000:1", "-inf:3"]
    assert classes(from_array("Y", np.full(9, np.nan)), 2) == ["nan:0", "nan:1"]


@pytest.mark.parametrize("datatype", ["BOOL", "BYTES", "FP16", "BF16"])
def test_datatypes_without_an_order_are_refused(datatype: str) -> None:
    with pytest.raises(InvalidArgument, match=f"unsupported type '{datatype}'"):
        classify([Tensor("Y", datatype, (0,), b"")], [RequestedOutput("Y", classes=1)], False, {})


def test_more_than_a_million_elements_are_refused() -> None:
    big = from_array("Y", np.zeros(classification.MAX_CLASSES + 1, np.uint8))

    with pytest.raises(InvalidArgument, match="1000001 elements"):
        classify([big], [RequestedOutput("Y", classes=1)], False, {})


def test_outputs_that_were_not_asked_for_as_classes_stay() -> None:
    tensor = from_array("Y", np.zeros(2, np.float32))

    assert classify([tensor], [RequestedOutput("Y"), RequestedOutput("Z", classes=1)], False, {}) == (tensor,)


def test_much_work_is_left_to_a_thread() -> None:
    small, large = from_array("Y", np.zeros((2, 1000), np.uint8)), from_array("Y", np.zeros(100_000, np.uint8))

    assert not classification.takes_long([small, large], {}, False)
    assert not classification.takes_long([small], {"Y": 1000}, True)
    assert classification.takes_long([large], {"Y": 1}, False)
    assert classification.takes_long([from_array("Y", np.zeros(5000, np.uint8))], {"Y": 5000}, False)


@given(datatype=st.sampled_from(NUMBERS), count=st.integers(1, 12), data=st.data())
def test_the_classes_are_those_of_a_full_stable_sort(datatype: str, count: int, data: st.DataObject) -> None:
    dtype = NUMPY_DTYPE[datatype]
    if dtype.kind == "f":
        element = st.floats(width=8 * dtype.itemsize, allow_nan=False)
    else:
        element = st.integers(np.iinfo(dtype).min, np.iinfo(dtype).max)
    values = data.draw(st.lists(st.one_of(st.sampled_from([0, 1]), element), min_size=1, max_size=10))
    tensor = from_array("Y", np.array(values, dtype))

    got = [int(text.split(":")[1]) for text in classes(tensor, count)]

    assert got == sorted(range(len(values)), key=lambda index: (-values[index], index))[:count]
