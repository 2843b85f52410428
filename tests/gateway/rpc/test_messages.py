"""Scanning and parsing of ModelInferRequests: equal to protobuf's own parser, and only our errors for anything else."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rpc import replies
from gateway.rpc.requests import LARGE, LargeHead, Reader, version_of
from gateway.rpc.scanning import entries, split
from protocol.errors import FleetError, InvalidArgument
from protocol.messages import InferReply
from protocol.proto import message_class
from protocol.tensors import ManyElements, Tensor
from tests.gateway.rpc.stub import ROW, infer_request

KIND: Any = message_class("inference.ModelInferRequest")
RESPONSE: Any = message_class("inference.ModelInferResponse")
NAMES = st.text(max_size=5)
PARAMETERS = st.dictionaries(NAMES, st.integers(-5, 5) | st.booleans() | NAMES | st.floats(allow_nan=False), max_size=3)


@st.composite
def requests(draw: st.DrawFn) -> Any:
    request = KIND(model_name=draw(NAMES), model_version=draw(NAMES), id=draw(NAMES))
    for name, value in draw(PARAMETERS).items():
        replies.set_parameter(request.parameters[name], value)
    for _ in range(draw(st.integers(0, 3))):
        datatype = draw(st.sampled_from(["FP32", "INT8", "BYTES", "BOOL", "nonsense"]))
        request.inputs.add(name=draw(NAMES), datatype=datatype, shape=draw(st.lists(st.integers(-1, 3), max_size=3)))
    for _ in range(draw(st.integers(0, 2))):
        request.outputs.add(name=draw(NAMES))
    request.raw_input_contents.extend(draw(st.lists(st.binary(max_size=200), max_size=3)))
    return request


@given(requests())
def test_a_message_in_parts_is_the_message(request: Any) -> None:
    parts = split(request.SerializeToString())
    assert parts.label == request.id
    assert [bytes(raw) for raw in parts.raws] == list(request.raw_input_contents)
    request.ClearField("raw_input_contents")
    request.ClearField("id")
    assert KIND.FromString(parts.head) == request


@given(st.binary(max_size=300) | requests().map(lambda request: request.SerializeToString()), st.data())
@settings(max_examples=400)
def test_any_bytes_are_read_as_by_protobuf_or_are_our_error(message: bytes, data: st.DataObject) -> None:
    if message and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(message) - 1))
        message = message[:at] + bytes([data.draw(st.integers(0, 255))]) + message[at + 1 :]
    try:
        expected = KIND.FromString(message)
    except DecodeError:
        expected = None
    try:
        asked = Reader().read(message)
    except FleetError:
        return
    assert expected is not None
    assert (asked.model, asked.version, asked.body.id) == (
        expected.model_name,
        expected.model_version,
        expected.id,
    )
    assert [tensor.name for tensor in asked.body.inputs] == [each.name for each in expected.inputs]
    assert list(asked.body.output_names) == list(dict.fromkeys(each.name for each in expected.outputs))


@given(requests())
def test_a_sound_message_is_refused_for_what_it_says_alone(request: Any) -> None:
    reader = Reader()
    outcomes: list[object] = []
    for _ in range(2):  # the second time its form is known
        try:
            outcomes.append(reader.read(request.SerializeToString()))
        except FleetError as error:
            outcomes.append(error.message)
    assert outcomes[0] == outcomes[1]
    assert "not a ModelInferRequest" not in str(outcomes[0])


def test_raw_contents_are_views_of_the_message() -> None:
    message = infer_request().SerializeToString()
    first, second = Reader().read(message).body.inputs
    assert isinstance(first.data, memoryview)
    assert first.data.obj is message
    assert isinstance(second.data, memoryview)
    assert second.data.obj is message


def test_parameters_of_one_request_are_not_those_of_the_next() -> None:
    request = infer_request()
    request.parameters["a"].int64_param = 1
    reader = Reader()
    first = reader.read(request.SerializeToString()).body.parameters
    first["a"] = 2
    assert reader.read(request.SerializeToString()).body.parameters == {"a": 1}


@pytest.mark.parametrize(
    ("datatype", "field", "values", "dtype"),
    [
        ("BOOL", "bool_contents", [True, False], np.bool_),
        ("INT8", "int_contents", [-128, 127], np.int8),
        ("UINT16", "uint_contents", [0, 65535], np.uint16),
        ("INT32", "int_contents", [-1, 1], np.int32),
        ("INT64", "int64_contents", [-(2**63), 1], np.int64),
        ("UINT64", "uint64_contents", [2**64 - 1, 1], np.uint64),
        ("FP32", "fp32_contents", [1.5, -2.0], np.float32),
        ("FP64", "fp64_contents", [1.5, float("inf")], np.float64),
    ],
)
def test_typed_contents(datatype: str, field: str, values: list[Any], dtype: type[Any]) -> None:
    request = infer_request(raws=(), names=("A",), datatype=datatype, shape=(2,))
    getattr(request.inputs[0].contents, field).extend(values)
    (tensor,) = Reader().read(request.SerializeToString()).body.inputs
    assert bytes(tensor.data) == np.array(values, dtype).tobytes()


@pytest.mark.parametrize(
    ("datatype", "field", "values", "text"),
    [
        ("INT8", "int_contents", [300, 0], "INT8 cannot hold"),
        ("FP16", "fp32_contents", [1.0, 2.0], "of type 'FP32', expected datatype 'FP16'"),
        ("INT32", "fp32_contents", [1.0, 2.0], "of type 'FP32', expected datatype 'INT32'"),
        ("INT32", "int_contents", [1], "Expected 8, got 4"),
        ("BYTES", "bytes_contents", [b"a"], "expected 2 string elements"),
    ],
)
def test_wrong_typed_contents(datatype: str, field: str, values: list[Any], text: str) -> None:
    request = infer_request(raws=(), names=("A",), datatype=datatype, shape=(2,))
    getattr(request.inputs[0].contents, field).extend(values)
    with pytest.raises(InvalidArgument, match=text):
        Reader().read(request.SerializeToString())


def test_large_and_many_are_left_to_a_thread() -> None:
    request = infer_request(raws=(), names=("A",), datatype="FP32", shape=(LARGE,))
    request.inputs[0].contents.fp32_contents.extend([1.0] * LARGE)
    reader, message = Reader(), request.SerializeToString()
    with pytest.raises(LargeHead):
        reader.read(message)
    assert len(reader.read(message, in_thread=True).body.inputs[0].data) == 4 * LARGE
    texts = struct.pack("<I", 1) + b"a"
    many = infer_request(raws=(texts * 5000,), names=("A",), datatype="BYTES", shape=(5000,)).SerializeToString()
    with pytest.raises(ManyElements):
        reader.read(many)
    assert reader.read(many, in_thread=True).body.inputs[0].shape == (5000,)


@pytest.mark.parametrize("piece", [b"\x2a\x00", b"\x32\x00", b"\x22\x00", b"\x3a\x00", b"\x7a\x00"])
def test_many_short_fields_are_refused_before_protobuf_keeps_an_object_for_each(piece: bytes) -> None:
    with pytest.raises(InvalidArgument, match="at most"):
        Reader().read(piece * 2000)


def test_many_short_fields_inside_an_input_are_counted() -> None:
    inner = b"\x22\x00" * 300_000
    message = b"\x2a" + replies.varint(len(inner)) + inner
    assert entries(message, 1000) == 1000
    with pytest.raises(InvalidArgument, match="fields or more"):
        Reader().read(message, in_thread=True)


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.0", "\u0661", "99999999999999999999", "1 ", "+1", "-"])
def test_a_version_is_a_positive_number(text: str) -> None:
    with pytest.raises(InvalidArgument, match="version should be an integral value > 0"):
        version_of(text)
    assert [version_of(given) for given in ("", "1", "007")] == ["", "1", "7"]


@given(st.lists(st.binary(max_size=300), max_size=3), NAMES, PARAMETERS)
def test_an_answer_is_what_protobuf_reads(raws: list[bytes], label: str, parameters: dict[str, Any]) -> None:
    outputs = tuple([Tensor(f"O{at}", "UINT8", (len(raw),), raw) for at, raw in enumerate(raws)])
    reply = InferReply("m", "3", label, outputs, parameters)
    read = RESPONSE.FromString(b"".join(replies.encode(reply, outputs, final=True)))
    assert (read.model_name, read.model_version, read.id) == ("m", "3", label)
    assert list(read.raw_output_contents) == raws
    assert [(each.name, list(each.shape)) for each in read.outputs] == [(t.name, list(t.shape)) for t in outputs]
    assert set(read.parameters) == {*parameters, "triton_final_response"}


def test_an_error_of_a_stream_is_what_protobuf_reads() -> None:
    kind: Any = message_class("inference.ModelStreamInferResponse")
    read = kind.FromString(replies.stream_error("wrong \ud800", "id", "m"))
    assert (read.error_message, read.infer_response.id, read.infer_response.model_name) == ("wrong ?", "id", "m")
    assert len(ROW) == 64
