from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalogue.request_checks import RequestCheck
from protocol.errors import InvalidArgument
from protocol.model_config import ModelConfig
from protocol.tensors import Tensor


def check(batch: int = 8, *inputs: dict[str, Any], outputs: tuple[str, ...] = ("OUT",)) -> RequestCheck:
    return RequestCheck(
        ModelConfig.from_json(
            {
                "name": "m",
                "backend": "identity",
                "max_batch_size": batch,
                "input": [{"data_type": "TYPE_FP32", "dims": [4], **spec} for spec in inputs],
                "output": [{"name": name, "data_type": "TYPE_FP32", "dims": [4]} for name in outputs],
            }
        )
    )


def tensor(name: str = "A", shape: tuple[int, ...] = (1, 4), datatype: str = "FP32") -> Tensor:
    return Tensor(name, datatype, shape, b"")


def refused(rule: RequestCheck, *inputs: Tensor, outputs: tuple[str, ...] = ()) -> str:
    with pytest.raises(InvalidArgument) as caught:
        rule(inputs, outputs, "L")
    return caught.value.message


ONE = check(8, {"name": "A"})
TWO = check(8, {"name": "A"}, {"name": "B"})
OPTIONAL = check(8, {"name": "A"}, {"name": "B", "optional": True}, {"name": "C", "optional": True})
FLAT = check(0, {"name": "A", "dims": [-1, 2]})


def test_rows_are_the_first_dimension() -> None:
    assert ONE([tensor(shape=(5, 4))], ()) == 5
    assert TWO([tensor("B", (3, 4)), tensor("A", (3, 4))], ("OUT",)) == 3
    assert FLAT([tensor(shape=(7, 2))], ()) == 1


def test_optional_inputs_may_be_left_out() -> None:
    assert OPTIONAL([tensor("A")], ()) == 1
    assert OPTIONAL([tensor("A"), tensor("C")], ()) == 1


@pytest.mark.parametrize(
    ("rule", "inputs", "text"),
    [
        (TWO, [tensor("A")], "expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['A'], but missing required input(s)"),
        (TWO, [tensor("A")], "missing required input(s) ['B']. Please provide all required input(s)."),
        (ONE, [tensor("A"), tensor("X")], "Got input(s) ['A','X'], but missing required input(s) []."),
        (ONE, [tensor("X")], "unexpected inference input 'X' for model 'm'; allowed inputs are: A"),
        (ONE, [tensor("A"), tensor("A")], "input 'A' already exists in request"),
        (OPTIONAL, [], "expected number of inputs between 1 and 3 but got 0 inputs for model 'm'"),
        (OPTIONAL, [tensor("B")], "missing required input(s) ['A']"),
        (TWO, [tensor("A"), tensor("X")], "unexpected inference input 'X' for model 'm'; allowed inputs are: A, B"),
        (TWO, [tensor("A"), tensor("A")], "input 'A' already exists in request"),
        (ONE, [tensor(datatype="INT64")], "inference input 'A' data-type is 'INT64', but model 'm' expects 'FP32'"),
        (ONE, [tensor(shape=(1, 5))], "unexpected shape for input 'A' for model 'm'. Expected [-1,4], got [1,5]. NOTE: Set"),
        (ONE, [tensor(shape=(4,))], "unexpected shape for input 'A' for model 'm'. Expected [-1,4], got [4]."),
        (ONE, [tensor(shape=())], "input 'A' has no shape but model requires batch dimension for 'm'"),
        (FLAT, [tensor(shape=(1, 3))], "unexpected shape for input 'A' for model 'm'. Expected [-1,2], got [1,3]."),
        (ONE, [tensor(shape=(9, 4))], "inference request batch-size must be <= 8 for 'm'"),
        (ONE, [tensor(shape=(0, 4))], "inference request batch-size must be >= 1 for 'm'"),
        (TWO, [tensor("A", (2, 4)), tensor("B", (3, 4))], "input 'B' batch size does not match other inputs for 'm'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_in_tritons_words(rule: RequestCheck, inputs: list[Tensor], text: str) -> None:
    assert text in refused(rule, *inputs)


@pytest.mark.parametrize(("label", "start"), [("L", "[request id: L] "), ("", "[request id: <id_unknown>] ")])
def test_what_is_said_of_a_request_names_its_id(label: str, start: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        TWO([tensor("A")], (), label)

    assert caught.value.message.startswith(start + "expected 2 inputs")


def test_no_inputs_fit_a_model_that_needs_none() -> None:
    assert check(0, {"name": "A", "optional": True})([], ()) == 1
    assert check(0)([], ()) == 1
    assert "needs at least one input" in refused(check(8, {"name": "A", "optional": True}))


def test_a_model_without_batching_gets_no_note_about_batches() -> None:
    assert "NOTE" not in refused(FLAT, tensor(shape=(1, 3)))


def test_unknown_outputs_are_refused() -> None:
    assert "unexpected inference output 'X' for model 'm'; allowed outputs are: OUT" in refused(
        ONE, tensor(), outputs=("OUT", "X")
    )


@given(st.lists(st.integers(-1, 5).filter(bool), min_size=1, max_size=4), st.lists(st.integers(0, 5), max_size=5))
def test_a_shape_fits_when_every_size_is_the_configured_one_or_open(dims: list[int], shape: list[int]) -> None:
    rule = check(0, {"name": "A", "dims": dims})
    fits = len(dims) == len(shape) and all(want in (-1, size) for want, size in zip(dims, shape, strict=True))

    if fits:
        assert rule([tensor(shape=tuple(shape))], ()) == 1
    else:
        assert "unexpected shape" in refused(rule, tensor(shape=tuple(shape)))
