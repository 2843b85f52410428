from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import v2
from protocol.errors import CodecError, FleetError, Unsupported
from protocol.json_data import _leaves
from protocol.tensors import ITEM_SIZE, NUMPY_DTYPE, Buffer, ManyElements, Tensor, from_array
from protocol.v2 import RequestedOutput
from tests.counting import lines_of
from tests.strategies import tensors
from tests.walks import walks

JSON_TYPES = tuple(name for name in ITEM_SIZE if name not in ("FP16", "BF16", "BYTES", "FP32", "FP64"))


def body(**fields: object) -> bytes:
    tensor = {"name": "A", "shape": [2], "datatype": "FP32", "data": [1, 2.5]} | fields
    return json.dumps({"inputs": [{key: value for key, value in tensor.items() if value is not None}]}).encode()


def refused(raw: bytes, header_length: int | None = None) -> str:
    with pytest.raises(FleetError) as caught:
        v2.parse_body(raw, header_length)
    return caught.value.message


@given(tensors(JSON_TYPES))
def test_every_json_datatype_survives(tensor: Tensor) -> None:
    data = json.loads(orjson.dumps(v2.tensor_json(tensor), option=orjson.OPT_SERIALIZE_NUMPY))

    parsed = v2.parse_json_body(body(name=tensor.name, shape=list(tensor.shape), datatype=tensor.datatype, data=data))

    assert bytes(parsed.inputs[0].data) == bytes(tensor.data)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_fp32_survives_json_exactly(values: list[float]) -> None:
    tensor = from_array("A", np.array(values, dtype=np.float32))
    data = json.loads(orjson.dumps(v2.tensor_json(tensor), option=orjson.OPT_SERIALIZE_NUMPY))

    assert bytes(v2.parse_json_body(body(shape=[len(values)], data=data)).inputs[0].data) == bytes(tensor.data)


@given(tensors(), st.integers(0, 3))
def test_a_binary_reply_is_a_binary_request_when_read_back(tensor: Tensor, version: int) -> None:
    reply = v2.encode_response("m", str(version), "7", {"k": 1}, [tensor], frozenset({tensor.name}))
    head = json.loads(bytes(reply.parts[0]))
    assert (head["id"], head["model_version"], head["parameters"]) == ("7", str(version), {"k": 1})

    request = orjson.dumps({"inputs": head["outputs"]}) + b"".join(bytes(part) for part in reply.parts[1:])
    header_length = len(request) - len(tensor.data)

    assert v2.parse_body(request, header_length).inputs[0] == tensor


def test_nested_and_flat_data_are_the_same() -> None:
    nested = v2.parse_json_body(body(shape=[2, 2], data=[[1, 2], [3, 4]]))

    assert nested.inputs[0].data == v2.parse_json_body(body(shape=[2, 2], data=[1, 2, 3, 4])).inputs[0].data


def test_bytes_are_utf8_strings_in_json() -> None:
    parsed = v2.parse_json_body(body(datatype="BYTES", data=["é", ""]))

    assert parsed.inputs[0].array().tolist() == ["é".encode(), b""]
    assert v2.tensor_json(parsed.inputs[0]) == ["é", ""]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"datatype": "INT8", "data": [1, 300]}, "outside the range of INT8"),
        ({"datatype": "UINT8", "data": [1, -1]}, "outside the range of UINT8"),
        ({"datatype": "INT32", "data": [1, 2.5]}, "only values of datatype INT32"),
        ({"datatype": "BOOL", "data": [1, 0]}, "only values of datatype BOOL"),
        ({"datatype": "INT64", "data": [True, False]}, "only values of datatype INT64"),
        ({"datatype": "FP32", "data": [1, 1e300]}, "outside the range of FP32"),
        ({"datatype": "FP32", "data": [1, None]}, "only values of datatype FP32"),
        ({"datatype": "FP32", "data": [1, "2"]}, "only values of datatype FP32"),
        ({"datatype": "FP32", "data": [[1], [2, 3]]}, "flat or nested"),
        ({"datatype": "FP32", "data": 5}, "'data' must be a list"),
        ({"datatype": "FP16"}, "receiving FP16 data via JSON is not supported"),
        ({"datatype": "FP31"}, "invalid datatype for input A: 'FP31'; known are BOOL"),
        ({"datatype": "BYTES", "data": ["a", 5]}, "must hold strings"),
        ({"shape": [3]}, "Shape does not match true shape of 'data' field"),
        ({"shape": [-1]}, "non-negative integer"),
        ({"shape": None}, "lacks its 'shape'"),
        ({"name": None}, "lacks its 'name'"),
        ({"data": None}, "But no field is set: input 'A'"),
        ({"data": None, "parameters": {"shared_memory_region": "r"}}, "'shared_memory_byte_size' of input 'A' must be"),
        (
            {"data": None, "parameters": {"shared_memory_region": 1}},
            "'shared_memory_region' of input 'A' must be a string",
        ),
        ({"data": None, "parameters": {"shared_memory_region": "r", "binary_data_size": 8}}, "Input must set only one"),
        (
            {"data": None, "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 9}},
            "Expected 8, got 9",
        ),
        ({"parameters": {"binary_data_size": 8}}, "Input must set only one of the following fields"),
        ({"data": None, "parameters": {"binary_data_size": -1}}, "'binary_data_size' must be a non-negative integer"),
        ({"data": None, "parameters": {"binary_data_size": 8}}, "expecting 8 additional bytes"),
    ],
)
def test_a_wrong_input_is_refused_by_name(fields: dict[str, object], text: str) -> None:
    message = refused(body(**fields))

    assert text in message
    assert "None" in str(fields.get("name", "")) or "A" in message or "input" in message


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "failed to parse the request JSON buffer"),
        (b"{", "failed to parse the request JSON buffer"),
        (b"\xff", "failed to parse the request JSON buffer"),
        (b'{"inputs":[NaN]}', "failed to parse the request JSON buffer"),
        (b"[]", "must be a JSON object"),
        (b"{}", "'inputs' must be a list"),
        (b'{"inputs":{}}', "'inputs' must be a list"),
        (b'{"inputs":[1]}', "each of 'inputs' must be an object"),
        (b'{"inputs":[' + b"[" * 2000 + b"]" * 2000 + b"]}", "failed to parse"),
    ],
)
def test_a_body_that_is_not_a_request_is_refused(raw: bytes, text: str) -> None:
    assert text in refused(raw)


def test_deep_data_is_refused() -> None:
    data = "[" * 101 + "1" + "]" * 101
    raw = b'{"inputs":[{"name":"A","shape":[1],"datatype":"FP32","data":%s}]}' % data.encode()

    assert "nested deeper than 100" in refused(raw)


def test_the_headers_length_must_lie_in_the_body() -> None:
    raw = body()

    for length in (0, -1, len(raw) + 1):
        assert f"inference header size should be in range (0, {len(raw)}), got: {length}" in refused(raw, length)


def test_left_over_binary_data_is_refused() -> None:
    raw = body(data=None, parameters={"binary_data_size": 8})

    assert "unexpected additional input data: 1 bytes" in refused(raw + bytes(9), len(raw))


def with_root(**fields: object) -> bytes:
    return json.dumps(json.loads(body()) | fields).encode()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"id": 5}, "'id' must be a string, not 5"),
        ({"id": False}, "'id' must be a string, not false"),
        ({"parameters": []}, "must be an object"),
        ({"parameters": {"triton_x": 1}}, "reserved for Triton usage"),
        ({"parameters": {"x": [1]}}, "parameter 'x' has invalid type"),
        ({"parameters": {"binary_data_output": "yes"}}, "must be a boolean"),
        ({"outputs": {}}, "'outputs' must be a list"),
        ({"outputs": [{}]}, "an object with a 'name'"),
        ({"outputs": [{"name": "S", "parameters": {"binary_data": 1}}]}, "must be a boolean"),
        ({"outputs": [{"name": "S", "parameters": 1}]}, "'parameters' of output 'S'"),
    ],
)
def test_a_wrong_field_is_refused_by_name(fields: dict[str, object], text: str) -> None:
    assert text in refused(with_root(**fields))


IN_MEMORY = {"shared_memory_region": "r", "shared_memory_byte_size": 8, "shared_memory_offset": 4}


def test_what_only_gateways_offer_is_refused_elsewhere() -> None:
    for raw in (
        with_root(outputs=[{"name": "S", "parameters": {"classification": 1}}]),
        with_root(outputs=[{"name": "S", "parameters": IN_MEMORY}]),
        body(data=None, parameters=IN_MEMORY),
    ):
        with pytest.raises(Unsupported, match="not offered"):
            v2.parse_json_body(raw)


def test_classes_and_shared_memory_are_parsed() -> None:
    named = {"name": "T", "parameters": {"classification": 3, "binary_data": True}}
    parsed = v2.parse_body(with_root(outputs=[{"name": "S", "parameters": IN_MEMORY}, named]), None)

    assert parsed.outputs == (
        RequestedOutput("S", region="r", offset=4, byte_size=8),
        RequestedOutput("T", binary=True, classes=3),
    )
    assert v2.parse_body(body(data=None, parameters=IN_MEMORY), None).shared == (v2.SharedInput(0, "r", 4, 8),)


class OneRegion:
    """Shared memory with eight bytes."""

    def read(self, region: str, offset: int, byte_size: int) -> bytes:
        return bytes(range(8))[:byte_size]

    def write(self, region: str, offset: int, byte_size: int, data: Sequence[Buffer]) -> None:
        raise NotImplementedError


def test_inputs_are_read_from_shared_memory() -> None:
    parsed = v2.parse_body(body(data=None, parameters=IN_MEMORY), None)
    v2.read_shared(parsed, OneRegion(), "m")
    assert (bytes(parsed.inputs[0].data), parsed.shared, parsed.held) == (bytes(range(8)), (), 8)

    text = v2.parse_body(body(data=None, datatype="BYTES", shape=[1], parameters=IN_MEMORY), None)
    with pytest.raises(CodecError, match="incomplete string data for inference input 'A'"):
        v2.read_shared(text, OneRegion(), "m")


def test_which_outputs_are_binary() -> None:
    outputs = [{"name": "S", "parameters": {"binary_data": True}}, {"name": "T"}]

    parsed = v2.parse_json_body(with_root(outputs=outputs, parameters={"binary_data_output": True, "k": "v"}))

    assert [(output.name, output.binary) for output in parsed.outputs] == [("S", True), ("T", False)]
    assert (parsed.binary_default, parsed.parameters, parsed.output_names) == (True, {"k": "v"}, ("S", "T"))


def test_no_inputs_are_for_the_model_to_judge() -> None:
    assert v2.parse_json_body(b'{"inputs":[]}').inputs == ()


def test_null_is_no_id() -> None:
    assert v2.parse_json_body(with_root(id=None)).id == ""


def test_an_output_named_twice_comes_once_as_named_first() -> None:
    outputs = [{"name": "S", "parameters": {"binary_data": True}}, {"name": "T"}, {"name": "S"}]

    assert v2.parse_json_body(with_root(outputs=outputs)).outputs == (RequestedOutput("S", True), RequestedOutput("T"))


@pytest.mark.parametrize("name", ["sequence_start", "sequence_end"])
@pytest.mark.parametrize(("value", "shown"), [(1, "1"), (0, "0"), ("true", "'true'"), (1.0, "1.0")])
def test_the_ends_of_a_sequence_are_booleans(name: str, value: object, shown: str) -> None:
    assert f"parameter '{name}' must be a boolean, not {shown}" in refused(with_root(parameters={name: value}))
    assert v2.parse_json_body(with_root(parameters={name: True})).parameters == {name: True}


@pytest.mark.parametrize(("value", "shown"), [(True, "true"), (-1, "-1"), (1.5, "1.5")])
def test_a_sequence_is_named_by_a_number_or_text(value: object, shown: str) -> None:
    assert f"an unsigned integer or a string, not {shown}" in refused(with_root(parameters={"sequence_id": value}))
    for good in (0, 5, "five"):
        v2.parse_json_body(with_root(parameters={"sequence_id": good}))


BINARY = {"name": "A", "shape": [2], "datatype": "INT32", "parameters": {"binary_data_size": 8}}


@pytest.mark.parametrize(
    ("size", "tail", "text"),
    [
        (4, 4, "[request id: L] input byte size mismatch for input 'A' for model 'm'. Expected 8, got 4"),
        (8, 4, "unexpected size for input 'A', expecting 4 additional bytes for model 'm'"),
        (8, 9, "unexpected additional input data for model 'm': 1 bytes belong to no input"),
    ],
)
def test_wrong_sizes_name_the_model_and_the_request(size: int, tail: int, text: str) -> None:
    head = json.dumps({"id": "L", "inputs": [BINARY | {"parameters": {"binary_data_size": size}}]}).encode()

    with pytest.raises(CodecError) as caught:
        v2.parse_body(head + bytes(tail), len(head), model="m")

    assert caught.value.message == text


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "null"), (True, "true"), ("8", "'8'"), (-8, "-8"), ([8], "[8]"), ({"a": 1}, "{…}")]
)
def test_errors_show_values_as_json_has_them(value: object, shown: str) -> None:
    head = json.dumps({"inputs": [BINARY | {"parameters": {"binary_data_size": value}}]}).encode()

    with pytest.raises(CodecError, match=re.escape(f"must be a non-negative integer, not {shown}")):
        v2.parse_body(head, len(head))


def floats(datatype: str, *values: float) -> Tensor:
    return Tensor("S", datatype, (len(values),), np.array(values, NUMPY_DTYPE[datatype]).tobytes())


def test_nan_is_null_in_json() -> None:
    (encoded,) = v2.encode_response("null", "1", "null", {}, [floats("FP32", 0.5, float("nan"))], frozenset()).parts

    assert json.loads(bytes(encoded))["outputs"][0]["data"] == [0.5, None]


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_an_infinity_is_never_written_as_something_else(datatype: str, value: float) -> None:
    tensor = floats(datatype, 0.5, value)

    with pytest.raises(CodecError, match=r"output 'S' holds Infinity.*binary_data"):
        v2.encode_response("m", "1", "", {}, [tensor], frozenset())

    assert v2.encode_response("m", "1", "", {}, [tensor, floats("FP32", float("nan"))], frozenset({"S"})).header_length


def test_outputs_without_a_json_form_are_refused() -> None:
    for tensor in (Tensor("S", "FP16", (1,), b"\0\0"), Tensor("S", "BYTES", (1,), b"\x01\0\0\0\xff")):
        with pytest.raises(CodecError, match="output 'S'"):
            v2.encode_response("m", "1", "", {}, [tensor], frozenset())


@given(st.binary(max_size=300), st.none() | st.integers(-5, 310))
def test_random_bodies_raise_only_the_codecs_errors(raw: bytes, header_length: int | None) -> None:
    with contextlib.suppress(FleetError):
        v2.parse_body(raw, header_length)


KEYS = st.sampled_from(
    ["name", "shape", "datatype", "data", "parameters", "binary_data_size", "binary_data", "inputs", "outputs", "id"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([*ITEM_SIZE, "A", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)  # fmt: skip


@given(st.dictionaries(KEYS, values, max_size=5), st.dictionaries(KEYS, values, max_size=6))
def test_bodies_of_the_right_names_with_wrong_values_raise_only_the_codecs_errors(
    root: dict[str, object], entry: dict[str, object]
) -> None:
    tensor = {"name": "A", "datatype": "FP32", "shape": [1], "data": [1]} | entry
    for candidate in (root, root | {"inputs": [tensor]}, {"inputs": [tensor]}):
        with contextlib.suppress(FleetError):
            v2.parse_body(orjson.dumps(candidate), None)


def outcome(datatype: str, shape: list[int], data: object) -> bytes | str:
    try:
        return bytes(v2.parse_json_body(body(shape=shape, datatype=datatype, data=data)).inputs[0].data)
    except CodecError as error:
        return error.message


@given(
    st.sampled_from([*JSON_TYPES, "FP32", "FP64"]),
    st.lists(
        st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.integers(-300, 300)
        | st.floats(allow_nan=False, allow_infinity=False),
        min_size=1, max_size=4,
    ),
)  # fmt: skip
def test_flat_and_nested_lists_are_read_alike(datatype: str, data: list[float]) -> None:
    flat = outcome(datatype, [len(data)], data)
    nested = outcome(datatype, [1, len(data)], [data])

    assert flat == nested


def test_more_strings_than_may_be_looked_at_are_not_looked_at() -> None:
    binary = orjson.dumps(
        {"inputs": [{"name": "A", "datatype": "BYTES", "shape": [3], "parameters": {"binary_data_size": 12}}]}
    )
    strings = body(datatype="BYTES", shape=[3], data=["", "", ""])
    two = orjson.dumps({"inputs": [{"name": n, "datatype": "BYTES", "shape": [2], "data": ["", ""]} for n in "AB"]})
    with walks() as seen:
        for raw, length in ((binary + bytes(12), len(binary)), (strings, None), (two, None)):
            with pytest.raises(ManyElements):
                v2.parse_body(raw, length, 2)
    assert seen == [2], "the first of two was within the limit"
    assert v2.parse_body(strings, None, 3).inputs[0].shape == (3,)


@pytest.mark.parametrize("deep", [2, 99])
def test_strings_beside_a_deep_list_are_looked_at_once(deep: int) -> None:
    nested: Any = "x"
    for _ in range(deep):
        nested = [nested]
    parsed = v2.parse_json_body(body(datatype="BYTES", shape=[1001], data=["a"] * 1000 + [nested]))
    assert bytes(parsed.inputs[0].data).endswith(b"x")
    steps = lines_of(lambda: _leaves("A", ["a"] * 1000 + [nested]))
    assert steps < 3 * 1000 + 10 * deep + 100


def test_strings_of_another_number_than_the_shape_are_not_encoded() -> None:
    with walks() as seen:
        assert "Shape does not match true shape" in refused(body(datatype="BYTES", shape=[1], data=["a"] * 1000))
    assert seen == []


@pytest.mark.parametrize("datatype", [name for name in JSON_TYPES if name != "BOOL"] + ["FP32", "FP64"])
@pytest.mark.parametrize("data", [[1, True], [[1], [False]], [True, True], [False, 2**70], [1.5, True], [None, 1]])
def test_a_boolean_is_no_number(datatype: str, data: list[object]) -> None:
    assert (
        refused(body(datatype=datatype, data=data)) == f"input 'A': 'data' must hold only values of datatype {datatype}"
    )


def test_a_number_is_no_boolean() -> None:
    assert "only values of datatype BOOL" in refused(body(datatype="BOOL", data=[True, 1]))


NUMBERS = st.one_of(st.integers(-(2**66), 2**66), st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 3))
VALUES = st.recursive(
    st.one_of(NUMBERS, NUMBERS, st.booleans(), st.none(), st.text("ab", max_size=2)),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)
SIZES = st.one_of(st.integers(-1, 3), st.sampled_from([True, 1.0, 2.0, "1", None, [1]]))


@given(
    st.sampled_from(list(ITEM_SIZE)),
    st.one_of(st.lists(SIZES, max_size=3), st.sampled_from([None, {}, "", 2])),
    st.one_of(st.lists(NUMBERS, max_size=4), st.lists(VALUES, max_size=4), VALUES, st.just({})),
)
def test_packing_at_once_and_value_by_value_agree(datatype: str, shape: object, data: object) -> None:
    entry = {"name": "A", "datatype": datatype, "shape": shape, "data": data}
    kept = {"name": "B", "datatype": "FP32", "shape": [1], "data": [1.0]}

    def outcome(letters: str) -> object:
        """A 'true' in the text, wherever it is, makes every value be asked for its type."""
        raw = json.dumps({"id": letters, "inputs": [kept, entry]}).encode()
        try:
            return v2.parse_json_body(raw).inputs
        except CodecError as error:
            return error.message

    assert outcome("tru") == outcome("true")


def test_sizes_that_equal_a_known_one_are_refused_all_the_same() -> None:
    assert v2.parse_json_body(body(shape=[1, 2])).inputs[0].shape == (1, 2)

    assert "every size must be a non-negative integer" in refused(body(shape=[True, 2]))
    assert "every size must be a non-negative integer" in refused(body(shape=[1, 2.0]))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_binary_tensors_are_views_that_nobody_can_write(kind: type) -> None:
    head = json.dumps(
        {"inputs": [{"name": "A", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}]}
    ).encode()
    raw = bytearray(head + bytes(8))

    tensor = v2.parse_body(kind(raw), len(head)).inputs[0]

    assert isinstance(tensor.data, memoryview)
    with pytest.raises(ValueError, match="read-only"):
        tensor.array()[0] = 1


def test_held_counts_what_the_tensors_keep() -> None:
    assert v2.parse_json_body(body()).held == 8
    entries = [
        {"name": "A", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}},
        {"name": "B", "datatype": "FP64", "shape": [1], "data": [1]},
    ]
    head = json.dumps({"inputs": entries}).encode()
    assert v2.parse_body(head + bytes(8), len(head)).held == len(head) + 8 + 8
