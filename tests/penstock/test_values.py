"""How `penstock infer -i NAME=JSON` reads JSON."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli import infer, input_flags
from penstock.client.values import array_of
from protocol import bfloat16
from protocol.errors import CodecError, InvalidArgument
from protocol.tensors import ITEM_SIZE, NUMPY_DTYPE, from_array

KINDS = {"x": {"name": "x", "datatype": "FP32", "shape": [-1, 2]}}


@pytest.mark.parametrize(
    ("datatype", "value", "said"),
    [
        ("FP32", {"a": 1}, "only values of datatype FP32"),
        ("FP32", [[None, 2]], "only values of datatype FP32"),
        ("FP32", [[1, 2], [3]], "lists of different lengths"),
        ("FP32", [1, [2]], "values beside lists"),
        ("FP32", "1", "only values of datatype FP32"),
        ("FP32", [True, 1.0], "only values of datatype FP32"),
        ("FP32", [1e39], "outside the range of FP32"),
        ("FP16", [70_000], "outside the range of FP16"),
        ("FP16", [None], "only values of datatype FP16"),
        ("INT32", [1.5], "only values of datatype INT32"),
        ("UINT8", [256], "outside the range of UINT8"),
        ("INT64", [2**63], "outside the range of INT64"),
        ("BOOL", [1], "only values of datatype BOOL"),
        ("BYTES", 7, "must hold strings"),
        ("BYTES", ["a", 7], "must hold strings"),
        ("BYTES", None, "must hold strings"),
    ],
)
def test_what_is_no_tensor_of_the_datatype_is_refused(datatype: str, value: object, said: str) -> None:
    with pytest.raises(CodecError, match=said):
        array_of("x", datatype, value)


@pytest.mark.parametrize(
    ("datatype", "value", "shape"),
    [
        ("FP32", [[1, 2.5]], (1, 2)), ("FP32", 3, ()), ("FP64", [], (0,)), ("INT8", [[], []], (2, 0)), ("BOOL", [[True]], (1, 1)),
        ("FP16", [0.5], (1,)), ("UINT64", [2**64 - 1], (1,)), ("BYTES", [["é"]], (1, 1)), ("BYTES", "a", ()),
    ],
)  # fmt: skip
def test_values_keep_their_shape_and_become_the_datatype(datatype: str, value: Any, shape: tuple[int, ...]) -> None:
    array = array_of("x", datatype, value)

    assert (array.shape, array.dtype) == (shape, NUMPY_DTYPE[datatype])
    if datatype != "BYTES":
        assert array.tolist() == value


def test_bf16_takes_numbers_and_not_bits() -> None:
    assert bfloat16.to_floats(array_of("x", "BF16", [[1.5, -2]])).tolist() == [[1.5, -2.0]]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)


@given(st.sampled_from(sorted(ITEM_SIZE)), json_values)
def test_any_json_is_a_finite_tensor_or_refused(datatype: str, value: object) -> None:
    try:
        array = array_of("x", datatype, value)
    except CodecError:
        return
    tensor = from_array("x", array, datatype if datatype == "BF16" else None)
    assert tensor.datatype == datatype
    if array.dtype.kind == "f":
        assert all(map(math.isfinite, array.ravel().tolist()))


@pytest.mark.parametrize("text", ['x={"a":1}', "x=[[null,2]]", "x=[[1,2", "x=", "x=NaN", "x=[[1,[2]]]", "x=[[true,2]]"])
def test_the_command_names_the_input_and_what_is_wrong(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"--input '?x"):
        input_flags.parse_input(text, KINDS)


def test_an_input_without_a_value_is_a_question_of_usage() -> None:
    done = CliRunner().invoke(infer.command, ["m", "-i", "x", "--url", "http://127.0.0.1:1"])

    assert done.exit_code != 0


@pytest.mark.parametrize("value", [7, None, 1.5, [1]])
def test_bytes_are_not_made_of_numbers(value: object) -> None:
    array = np.empty(1, dtype=object)
    array[0] = value

    with pytest.raises(CodecError, match=f"an element of type {type(value).__name__} cannot be BYTES"):
        from_array("x", array)
