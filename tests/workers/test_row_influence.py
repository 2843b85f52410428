from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.example_shapes import MAX_ELEMENTS
from protocol.model_config import DynamicBatching, ModelConfig, TensorSpec
from protocol.tensors import ITEM_SIZE, NUMPY_DTYPE, Array, Tensor, check_size, from_array
from workers.repository.completion import BackendMetadata, complete
from workers.repository.row_influence import (
    ROWS,
    batching_is_guessed,
    influence,
    made_up_rows,
    unbatched,
)
from workers.repository.signature import Signature

X = TensorSpec("X", "FP32", (4,))
UNSTATED = ModelConfig(name="m", backend="onnxruntime", batch_size_stated=False)
BATCHING = BackendMetadata((X,), (X,), batchable=True)


def answers(*rows: Any, datatype: str = "FP32") -> list[tuple[Tensor, ...]]:
    """One row of an output each."""
    return [
        (from_array("Y", np.asarray([row], NUMPY_DTYPE[datatype] if datatype != "BYTES" else object), datatype),)
        for row in rows
    ]


class TestGuessed:
    def test_where_only_the_files_dimensions_say_it(self) -> None:
        assert batching_is_guessed(UNSTATED, BATCHING)
        assert batching_is_guessed(dataclasses.replace(UNSTATED, backend="pytorch"), BATCHING)
        assert batching_is_guessed(dataclasses.replace(UNSTATED, inputs=(X,)), BATCHING)

    @pytest.mark.parametrize(
        "stated",
        [
            {"batch_size_stated": True},
            {"batch_size_stated": True, "max_batch_size": 8},
            {"inputs": (dataclasses.replace(X, allow_ragged_batch=True),)},
            {"outputs": (X,)},
            {"dynamic_batching": DynamicBatching()},
            {"backend": "python"},
        ],
    )
    def test_not_where_a_configuration_speaks_of_rows(self, stated: dict[str, Any]) -> None:
        assert not batching_is_guessed(dataclasses.replace(UNSTATED, **stated), BATCHING)

    @pytest.mark.parametrize("metadata", [
        None, dataclasses.replace(BATCHING, batchable=False), dataclasses.replace(BATCHING, max_batch_size=4),
    ])  # fmt: skip
    def test_not_where_the_file_says_it_or_there_is_nothing_to_say(self, metadata: BackendMetadata | None) -> None:
        assert not batching_is_guessed(UNSTATED, metadata)

    def test_an_unbatched_model_keeps_the_first_dimension_as_its_own(self) -> None:
        completed = complete(unbatched(UNSTATED), BATCHING)

        assert (completed.max_batch_size, completed.inputs[0].dims, completed.dynamic_batching) == (0, (-1, 4), None)
        stated = dataclasses.replace(UNSTATED, inputs=(dataclasses.replace(X, dims=(2, 2), reshape=(4,)),))
        assert complete(unbatched(stated), BATCHING).inputs == completed.inputs


class TestMadeUpRows:
    @pytest.mark.parametrize("datatype", ITEM_SIZE)
    @pytest.mark.parametrize("dims", [(1,), (3,), (-1,), (2, -1, 3)])
    def test_fit_the_model_and_differ(self, datatype: str, dims: tuple[int, ...]) -> None:
        config = complete(UNSTATED, BackendMetadata((TensorSpec("X", datatype, dims),), (X,), batchable=True))
        tries = list(made_up_rows(config))

        assert (len(tries) > 3) == (-1 in dims)
        for rows in tries:
            assert len(rows) == ROWS
            for row in rows:
                assert Signature(config).check_request(row).rows == 1
                for tensor in row.inputs:
                    check_size(tensor)
            first, second = (row.inputs[0].array() for row in rows)
            assert first.shape == second.shape
            assert (first != second).any()

    def test_are_the_same_each_time(self) -> None:
        config = complete(UNSTATED, BATCHING)

        assert list(made_up_rows(config)) == list(made_up_rows(config))

    def test_integers_index_any_table(self) -> None:
        config = complete(UNSTATED, BackendMetadata((TensorSpec("X", "INT64", (1000,)),), (X,), batchable=True))

        (rows,) = made_up_rows(config)

        assert {*rows[0].inputs[0].array().ravel().tolist()} == {0, 1}

    def test_large_rows_are_not_made(self) -> None:
        config = complete(
            UNSTATED, BackendMetadata((TensorSpec("X", "FP32", (MAX_ELEMENTS + 1,)),), (X,), batchable=True)
        )  # fmt: skip

        assert list(made_up_rows(config)) == []

    def test_optional_inputs_are_left_out(self) -> None:
        specs = (X, dataclasses.replace(X, name="O", optional=True))
        config = complete(UNSTATED, BackendMetadata(specs, (X,), batchable=True))

        assert [tensor.name for tensor in next(made_up_rows(config))[0].inputs] == ["X"]


class TestInfluence:
    @given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=5))
    def test_equal_answers_show_none(self, row: list[float]) -> None:
        assert influence(answers(row, row[::-1]), answers(row, row[::-1])) == ""

    @given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=5), st.floats(0, 10))
    def test_a_change_of_a_fiftieth_of_the_span_is_one(self, row: list[float], factor: float) -> None:
        row[:2] = [0.0, 1e4]
        changed = [value + factor * 1e3 + 300 for value in row]

        assert "output 'Y' of a row changes by up to" in influence(answers(row), answers(changed))

    @pytest.mark.parametrize(("datatype", "change"), [("FP32", 1e-3), ("FP64", 1e-3), ("FP16", 1e-2)])
    def test_rounding_is_none(self, datatype: str, change: float) -> None:
        row = np.linspace(-1, 1, 9)

        assert influence(answers(row, datatype=datatype), answers(row + change, datatype=datatype)) == ""

    def test_rounding_of_equal_values_is_none(self) -> None:
        assert influence(answers([1.0, 1.0]), answers([1.0, 1.0 + 1e-6])) == ""
        assert influence(answers([1.0, 1.0]), answers([1.0, 1.1])) != ""

    def test_bfloat16_is_compared_as_numbers(self) -> None:
        one, next_to_one, two = 0x3F80, 0x3F81, 0x4000

        assert influence(answers([one], datatype="BF16"), answers([next_to_one], datatype="BF16")) == ""
        assert influence(answers([one], datatype="BF16"), answers([two], datatype="BF16")) != ""

    def test_quantised_values_may_be_off_by_one(self) -> None:
        row = [0, 255, 128]

        assert influence(answers(row, datatype="UINT8"), answers([1, 254, 128], datatype="UINT8")) == ""
        assert influence(answers(row, datatype="UINT8"), answers([60, 255, 128], datatype="UINT8")) != ""

    @pytest.mark.parametrize(("datatype", "one", "other"), [
        ("INT64", [7], [8]), ("BOOL", [True], [False]), ("BYTES", [b"a"], [b"b"]), ("INT32", [1, 2], [2, 1]),
    ])  # fmt: skip
    def test_classes_and_texts_must_be_equal(self, datatype: str, one: list[Any], other: list[Any]) -> None:
        assert influence(answers(one, datatype=datatype), answers(one, datatype=datatype)) == ""
        assert "is another one with another row" in influence(
            answers(one, datatype=datatype), answers(other, datatype=datatype)
        )

    def test_nan_and_infinity_are_equal_to_themselves_only(self) -> None:
        odd: Array = np.float32([np.nan, np.inf, -np.inf, 1])

        assert influence(answers(odd), answers(odd)) == ""
        assert "not a number" in influence(answers([1.0, 2.0]), answers([1.0, np.nan]))
        assert "not a number" in influence(answers(odd), answers([0.0, np.inf, -np.inf, 1]))
        assert influence(answers([np.inf, np.inf]), answers([np.inf, -np.inf])) != ""

    def test_another_shape_is_one(self) -> None:
        assert influence(answers([1.0]), answers([1.0, 2.0])) == (
            "output 'Y' of a row has shape [1, 1] alone and [1, 2] with another row"
        )

    def test_empty_outputs_show_none(self) -> None:
        assert influence(answers([]), answers([])) == ""
