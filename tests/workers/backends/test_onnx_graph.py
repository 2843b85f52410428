"""What an ONNX file says about shapes, read without onnx or onnxruntime."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from workers.backends.onnx_graph import other_domains, scalars

Shape = list[int | str | None] | None
SHAPES = st.none() | st.lists(st.integers(0, 2**40) | st.sampled_from(["n", "batch"]), max_size=4)


def model(inputs: dict[str, Shape], outputs: dict[str, Shape]) -> bytes:
    sides = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side.items()]
        for side in (inputs, outputs)
    ]
    nodes = [helper.make_node("Identity", [next(iter(inputs))], [name]) for name in outputs]
    return helper.make_model(helper.make_graph(nodes, "g", *sides)).SerializeToString()


@given(
    inputs=st.dictionaries(st.sampled_from("abcé"), SHAPES, min_size=1),
    outputs=st.dictionaries(st.sampled_from("xyz"), SHAPES),
)
def test_exactly_the_scalars_are_named(inputs: dict[str, Shape], outputs: dict[str, Shape]) -> None:
    stated = {name for name, shape in (inputs | outputs).items() if shape == []}

    assert scalars(model(inputs, outputs)) == stated


def test_a_sequence_is_no_scalar() -> None:
    value = helper.make_tensor_sequence_value_info("S", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("SequenceEmpty", [], ["S"])], "g", [], [value])

    assert scalars(helper.make_model(graph).SerializeToString()) == set()


@given(st.binary(max_size=200))
def test_other_files_name_nothing_or_something_but_never_fail(data: bytes) -> None:
    assert isinstance(scalars(data), frozenset)


@given(st.data())
def test_a_damaged_file_never_fails(data: st.DataObject) -> None:
    whole = model({"a": None, "b": [2]}, {"x": ["n"]})
    cut = data.draw(st.integers(0, len(whole)))
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:place] + bytes([data.draw(st.integers(0, 255))]) + whole[place + 1 :]

    scalars(whole[:cut])
    scalars(damaged)


def test_large_weights_are_skipped() -> None:
    weights = helper.make_tensor("W", TensorProto.FLOAT, [1_000_000], b"\0" * 4_000_000, raw=True)
    value = helper.make_tensor_value_info("X", TensorProto.FLOAT, [])
    graph = helper.make_graph([helper.make_node("Identity", ["W"], ["X"])], "g", [], [value], [weights])

    data = helper.make_model(graph).SerializeToString()

    assert scalars(data) == {"X"}


@pytest.mark.parametrize("data", [b"", b"\x08", b"\xff" * 20, b"\x3a\xff\xff\x03"])
def test_what_is_no_message_has_no_tensors(data: bytes) -> None:
    assert scalars(data) == frozenset()


def test_the_domains_of_its_operators_are_named_without_onnxs_own() -> None:
    made = helper.make_model(helper.make_graph([], "g", [], []), opset_imports=[
        helper.make_opsetid(domain, 1) for domain in ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
    ])  # fmt: skip

    assert other_domains(made.SerializeToString()) == {"ai.onnx.ml", "com.microsoft"}
    assert other_domains(b"\x42\xff") == frozenset()
