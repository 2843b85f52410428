from __future__ import annotations

import numpy as np
import pytest

from gateway.rest import bodies
from protocol.errors import Code, CodecError, InvalidArgument
from protocol.messages import Failure, InferReply
from protocol.model_config import ModelConfig
from protocol.tensors import Tensor, from_array
from protocol.v2 import InferBody, RequestedOutput
from tests.gateway.fleet import ADD_SUB, ANY, TEXT

FLOATS = from_array("A", np.arange(3, dtype=np.float32))


def test_a_raw_body_takes_its_open_size_from_its_bytes() -> None:
    body = bodies.parse_body(np.arange(6, dtype=np.float32).tobytes(), 0, ModelConfig.from_json(ANY))

    assert body.inputs[0].shape == (6,)
    assert body.binary_default is True
    assert body.held == 24


def test_nobody_can_write_into_a_raw_body() -> None:
    body = bodies.parse_body(bytearray(8), 0, ModelConfig.from_json(ANY))

    with pytest.raises(ValueError, match="read-only"):
        body.inputs[0].array()[0] = 1


def test_a_raw_body_of_text_is_one_element() -> None:
    body = bodies.parse_body(b"hello", 0, ModelConfig.from_json(TEXT))

    assert body.inputs[0].shape == (1,)
    assert body.inputs[0].array().tolist() == [b"hello"]


def test_a_raw_body_for_a_batching_model_is_one_row() -> None:
    config = ModelConfig.from_json(
        {**ANY, "max_batch_size": 4, "input": [{"name": "IN", "data_type": "TYPE_INT16", "dims": [2, -1]}]}
    )

    assert bodies.parse_body(bytes(12), 0, config).inputs[0].shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("config", "size", "text"),
    [
        (ADD_SUB, 64, "must only have 1 input"),
        (
            {**ANY, "input": [{"name": "IN", "data_type": "TYPE_FP32", "dims": [-1, -1]}]},
            64,
            "several variable dimensions",
        ),
        (ANY, 7, "byte size mismatch"),
        ({**ANY, "input": [{"name": "IN", "data_type": "TYPE_FP32", "dims": [2]}]}, 4, "byte size mismatch"),
        ({**TEXT, "input": [{"name": "IN", "data_type": "TYPE_STRING", "dims": [2]}]}, 4, "one BYTES element"),
    ],
)
def test_a_raw_body_that_cannot_be_one_input_is_refused(config: dict[str, object], size: int, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        bodies.parse_body(bytes(size), 0, ModelConfig.from_json(config))


@pytest.mark.parametrize("raw", [b"x", b"-", b"--1", b"1 1", b"1.5", b"", b"9" * 13, b"\xb2"])
def test_a_header_length_that_is_no_number_is_shown_as_it_came(raw: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        bodies.header_length(raw)

    shown = raw.decode("utf-8", "backslashreplace")
    assert caught.value.message == f"Inference-Header-Content-Length must be a number of bytes, not '{shown}'"


@pytest.mark.parametrize(
    ("raw", "length"), [(None, None), (b"208", 208), (b"208 ", 208), (b" 208\t", 208), (b"-5", -5)]
)
def test_a_header_length_may_have_space_around_it(raw: bytes | None, length: int | None) -> None:
    assert bodies.header_length(raw) == length


@pytest.mark.parametrize(
    ("outputs", "default", "expected"),
    [
        ((), False, False),
        ((), True, True),
        ((RequestedOutput("A"), RequestedOutput("B", binary=True)), False, frozenset({"B"})),
        ((RequestedOutput("A"),), True, False),
    ],
)
def test_a_listed_output_says_itself_how_it_is_wanted(
    outputs: tuple[RequestedOutput, ...], default: bool, expected: bodies.Binary
) -> None:
    assert bodies.wanted(InferBody("", (), outputs, {}, binary_default=default)) == expected


def test_render_puts_the_wanted_outputs_behind_the_json() -> None:
    reply = InferReply("m", "1", "", (FLOATS, from_array("B", np.zeros(1, np.int64))))

    assert bodies.render(reply, False).header_length is None
    some, every = bodies.render(reply, frozenset({"B"})), bodies.render(reply, True)
    assert [bytes(part) for part in some.parts[1:]] == [bytes(8)]
    assert [len(part) for part in every.parts[1:]] == [12, 8]
    assert (
        bodies.json_bytes(reply, False),
        bodies.json_bytes(reply, frozenset({"B"})),
        bodies.json_bytes(reply, True),
    ) == (20, 12, 0)


def test_half_precision_has_no_json_form() -> None:
    reply = InferReply("m", "1", "", (Tensor("A", "FP16", (1,), b"\0\0"),))

    with pytest.raises(CodecError, match="FP16"):
        bodies.render(reply, False)
    assert bodies.render(reply, True).header_length is not None


def test_a_failure_has_no_body_of_outputs() -> None:
    reply = InferReply("m", "1", failure=Failure(Code.MODEL_FAILED, "x"))

    assert bodies.json_bytes(reply, False) == 0
