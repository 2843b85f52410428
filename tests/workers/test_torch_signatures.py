"""What PyTorch's files state is read from JSON, generated C++ and opcodes; anything else in their places is refused, never run."""

from __future__ import annotations

import contextlib
import pickle
import pickletools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError
from workers.repository import pickles
from workers.repository.pickles import Content, PickleSummary
from workers.repository.torch_files import compiled, exported, traced
from workers.repository.torch_files.pytrees import MAX_DEPTH, leaves, names_of, spec_paths
from workers.repository.torch_files.signature import ProgramTensor, Size

SOURCE = r"""
    : AOTInductorModelBase(2,
                           2,
                           1,
    in_spec_ = R"([1, {"type": "builtins.tuple", "context": "null", "children_spec": [
 {"type": "builtins.tuple", "context": "null", "children_spec": [{"type": null, "context": null, "children_spec": []}]},
 {"type": "builtins.dict", "context": "[\"mask\"]", "children_spec": [{"type": null, "context": null, "children_spec": []}]}]}])";
    out_spec_ = R"([1, {"type": "builtins.dict", "context": "[\"logits\", \"best\"]", "children_spec": [
 {"type": null, "context": null, "children_spec": []}, {"type": null, "context": null, "children_spec": []}]}])";
AOTI_NOINLINE static void check_input_0(
    AtenTensorHandle* input_handles
) {
    int32_t arg3_1_expected_dtype = aoti_torch_dtype_float32();
    if (arg3_1_expected_dtype != arg3_1_dtype) {
           << "expected: " << arg3_1_expected_dtype << "(at::kFloat), "
    }
    auto arg3_1_size = arg3_1.sizes();
    if (arg3_1_size[0] < 2) {
    }
    if (arg3_1_size[0] > 64) {
    }
    if (4 != arg3_1_size[1]) {
    }
    if (4 != arg3_1_stride[0]) {
    }
    if (1 != arg3_1_stride[1]) {
    }
}
AOTI_NOINLINE static void check_input_1(
    AtenTensorHandle* input_handles
) {
           << "expected: " << arg4_1_expected_dtype << "(at::kLong), "
    if (arg4_1_size[0] > 9223372036854775807) {
    }
    if (1 != arg4_1_stride[1]) {
    }
}
"""


def test_an_aotinductor_package_states_its_inputs_in_its_source() -> None:
    found = compiled.signature(SOURCE)
    assert found.output_names == ("logits", "best")
    assert found.inputs == (
        ProgramTensor("INPUT__0", "FP32", (Size(least=2, most=64), Size(4))),
        ProgramTensor("mask", "INT64", (Size(), Size())),
    )


def test_a_source_without_checks_or_without_a_model_is_not_guessed_at() -> None:
    assert compiled.signature(SOURCE[: SOURCE.index("AOTI_NOINLINE")]).inputs is None
    with pytest.raises(ConfigError, match="does not say how many inputs"):
        compiled.signature("int main() {}")


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (1, ["OUTPUT__0"]),
        ((1, 2), ["OUTPUT__0", "OUTPUT__1"]),
        ({"a": 1, "b": [2, {"c": 3}]}, ["a", "b.0", "b.1.c"]),
        ((1, None, {"a": 2}), ["OUTPUT__0", "OUTPUT__1", "a"]),
        (({"a": 1}, {"a": 2}), ["OUTPUT__0", "OUTPUT__1"]),
        ({}, []),
    ],
)
def test_outputs_are_named_by_their_keys_or_by_their_number(value: Any, names: list[str]) -> None:
    assert list(names_of([path for path, _ in leaves(value)])) == names


def test_too_deep_outputs_are_refused() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH + 2):
        value = [value]
    with pytest.raises(ConfigError, match="nested more than 64 deep"):
        list(leaves(value))


@pytest.mark.parametrize(
    "spec",
    [
        "", "[]", "[2, {}]", "[1, null]", '[1, {"type": 5, "context": null, "children_spec": []}]',
        '[1, {"type": "builtins.dict", "context": "[\\"a\\"]", "children_spec": []}]',
        '[1, {"type": "builtins.dict", "context": "{\\"__enum__\\": true, \\"fqn\\": \\"os:system\\"}", "children_spec": []}]',
        '[1, {"type": "builtins.tuple", "context": "null", "children_spec": ' * 3000,
    ],
)  # fmt: skip
def test_a_tree_that_is_none_is_refused(spec: str) -> None:
    with pytest.raises(ConfigError):
        spec_paths(spec)


def test_a_class_of_the_models_own_is_refused_with_the_cure() -> None:
    spec = '[1, {"type": "transformers.modeling_outputs.BaseModelOutput", "context": "[]", "children_spec": []}]'
    with pytest.raises(
        ConfigError, match=r"'transformers.modeling_outputs.BaseModelOutput', which only the code .* a wrapper"
    ):
        spec_paths(spec)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 40) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["as_tensor", "name", "sizes", "arg"]), inner)
    ),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "graph_module": st.fixed_dictionaries(
                {},
                optional={
                    "graph": st.fixed_dictionaries({"tensor_values": JSON}),
                    "signature": st.fixed_dictionaries({"input_specs": JSON, "output_specs": JSON}),
                    "module_call_graph": JSON,
                },
            ),
            "range_constraints": JSON,
        },
    )
    | JSON
)
def test_any_document_is_read_or_refused(document: Any) -> None:
    with contextlib.suppress(ConfigError):
        exported.metadata(document)


@given(st.binary(max_size=200) | st.builds(pickle.dumps, JSON))
def test_any_pickle_is_looked_at_and_never_loaded(data: bytes) -> None:
    assert isinstance(pickles.summary(data), PickleSummary)
    assert isinstance(pickles.summary(data, legacy=True), PickleSummary)
    examples = traced.example_inputs(data)
    assert examples is None or isinstance(examples, tuple)


class Trap:
    """Fails the test when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('unpickled')",)


def test_a_hostile_pickle_says_nothing_and_does_nothing() -> None:
    hostile = pickle.dumps({"forward": [Trap()]}, protocol=2)
    assert traced.example_inputs(hostile) is None
    assert pickles.summary(hostile).content is Content.OTHER


def test_a_pickle_of_millions_of_opcodes_is_looked_at_up_to_a_bound() -> None:
    opcodes = b"\x80\x02" + b"N0" * (pickles.MAX_OPCODES + 10) + b"."
    assert pickles.summary(opcodes) == PickleSummary(Content.OTHER)
    assert len(list(pickletools.genops(b"\x80\x02N0N."))) == 5
