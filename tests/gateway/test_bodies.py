from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rest import bodies
from protocol.errors import Code, CodecError, InvalidArgument
from protocol.messages import Failure, InferReply, Timing
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


def test_timing_is_microseconds_since_accept() -> None:
    stamps = Timing(
        10.0, 10.00025, 10.0005, 10.0005, 10.00075, 10.001, 10.002, 10.0025, "max_batch", 8, 4, 2, "w", "0ab1"
    )

    assert bodies.timing(stamps, 10.003) == (
        b"publish=250, fetch=500, enqueue=500, release=750, compute_start=1000, compute_end=2000, emit=2500, wake=3000, "
        b'rows=8, requests=4, attempt=2, reason=max_batch, digest="0ab1"'
    )
    for nothing in ("", 'x"y', "a\r\nb", "é"):
        stamps.digest = nothing
        assert bodies.timing(stamps, 10.003).endswith(b"reason=max_batch")


def test_timing_leaves_out_what_did_not_happen() -> None:
    assert bodies.timing(Timing(10.0), 10.5) == b"wake=500000"
    assert bodies.timing(Timing(), 0.0) == b""


def test_timing_of_an_answer_that_was_not_woken_for_has_no_wake() -> None:
    stamps = Timing(10.0, 10.1, 10.2, 10.3, 10.4, 10.5, 10.6, 10.7, "full", 1, 1)

    assert b"wake" not in bodies.timing(stamps, 0.0)
    assert bodies.timing(stamps, 0.0).endswith(b"emit=700000, rows=1, requests=1, attempt=1, reason=full")


STAMPS = st.lists(st.sampled_from([0.0, 1e9]) | st.floats(1, 2e9), min_size=9, max_size=9)


@given(STAMPS)
def test_timing_is_never_negative(stamps: list[float]) -> None:
    text = bodies.timing(Timing(*stamps[:8], "full", 1, 1), stamps[8]).decode()
    values = dict(part.split("=") for part in text.split(", ") if part)
    stages = ("publish", "fetch", "enqueue", "release", "compute_start", "compute_end", "emit", "wake")

    assert "-" not in text
    for stage, stamp in zip(stages, stamps[1:], strict=True):
        if abs(stamp - stamps[0]) > 2e-6 or not stamps[0]:
            assert (stage in values) == (stamps[0] > 0 and stamp >= stamps[0]), (stage, text)
        if stage in values:
            assert int(values[stage]) == pytest.approx((stamp - stamps[0]) * 1e6, abs=2)


def test_timing_lets_no_worker_write_headers() -> None:
    stamps = Timing(*[1.0] * 8, "evil\r\nset-cookie: a", 1, 1)

    assert bodies.timing(stamps, 1.0).endswith(b"reason=other")


def test_a_failure_has_no_body_of_outputs() -> None:
    reply = InferReply("m", "1", failure=Failure(Code.MODEL_FAILED, "x"))

    assert bodies.json_bytes(reply, False) == 0
