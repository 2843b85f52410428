from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from aiokafka.partitioner import murmur2 as aiokafkas_murmur2
from hypothesis import given
from hypothesis import strategies as st

from protocol import answers, codec, frames
from protocol.errors import Code, CodecError
from protocol.frames import MAX_RECORD
from protocol.messages import Failure, InferReply, InferRequest, Timing
from protocol.ports import OutRecord, Record
from protocol.tensors import Tensor
from tests.protocol.test_codec import FAILURE, REPLY
from tests.strategies import replies, requests

GOLDEN = Path(__file__).parent / "golden"
JSON, MSGPACK = "application/json", "application/msgpack"
REQUEST = InferRequest("row-1", "addsub", "1", (), label="1")


def asked(accept: str, **fields: object) -> InferRequest:
    return dataclasses.replace(REQUEST, accept=accept, **fields)  # type: ignore[arg-type]


def record(accept: str, reply: InferReply) -> OutRecord:
    return answers.encode_answer(codec.encode_reply(reply), asked(accept))


def fetched(out: OutRecord) -> Record:
    return Record("penstock.results.job", 0, 0, 0.0, out.value, out.headers, out.key)


def packed(out: OutRecord) -> bytes:
    return frames.pack([out.key, out.value, list(out.headers)])


GOLDEN_FILES = {
    "answer-json": packed(record(JSON, REPLY)),
    "answer-msgpack": packed(record(MSGPACK, REPLY)),
    "answer-json-failure": packed(record(JSON, FAILURE)),
    "answer-msgpack-failure": packed(record(MSGPACK, FAILURE)),
}


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_an_answers_record_is_the_golden_file(name: str) -> None:
    assert (GOLDEN / f"{name}.v1.bin").read_bytes() == GOLDEN_FILES[name]


def test_json_is_the_body_of_the_http_response() -> None:
    assert json.loads(record(JSON, REPLY).value) == {
        "model_name": "addsub", "model_version": "1", "id": "1", "parameters": {"note": "ok"},
        "outputs": [{"name": "SUM", "datatype": "FP32", "shape": [1], "data": [3.0]}],
    }  # fmt: skip


def test_msgpack_is_what_the_store_keeps_byte_for_byte() -> None:
    payload = codec.encode_reply(REPLY)

    assert answers.encode_answer(payload, asked(MSGPACK)).value == payload
    assert answers.encode_answer(payload, asked("")).value == payload


def test_an_error_has_its_code_in_the_body_and_in_a_header() -> None:
    out = record(JSON, FAILURE)

    assert json.loads(out.value) == {
        "error": "it raised", "code": "MODEL_FAILED", "model_name": "addsub", "model_version": "1",
    }  # fmt: skip
    assert dict(out.headers) == {
        "id": b"row-1", "content-type": b"application/json", "model": b"addsub", "version": b"1", "error": b"MODEL_FAILED",
    }  # fmt: skip
    assert "error" not in dict(record(JSON, REPLY).headers)


@pytest.mark.parametrize(
    ("principal", "request_id", "key"),
    [("-", "row-1", b"row-1"), ("-", "a\nb\0/c", b"a%0Ab%00%2Fc"), ("key", "row-1", b"key/row-1")],
)
def test_the_key_is_the_ref_and_a_header_has_the_id(principal: str, request_id: str, key: bytes) -> None:
    out = answers.encode_answer(codec.encode_reply(REPLY), asked(JSON, principal=principal, id=request_id))

    assert out.key == key
    assert answers.decode_answer(fetched(out))[0] == request_id


@given(replies, requests, st.sampled_from([JSON, MSGPACK, ""]))
def test_every_stored_answer_gives_a_record_that_can_be_read_and_is_always_the_same(
    reply: InferReply, request: InferRequest, accept: str
) -> None:
    payload = codec.encode_reply(dataclasses.replace(reply, parameters={}))
    request = dataclasses.replace(request, accept=accept)

    out = answers.encode_answer(payload, request)

    assert packed(answers.encode_answer(payload, request)) == packed(out)
    request_id, back = answers.decode_answer(fetched(out))
    assert request_id == request.id
    stored = codec.decode_reply(payload)
    if accept != JSON:
        assert out.value == payload
        assert codec.encode_reply(back) == payload
    elif back.failure is None or stored.failure is not None:
        assert (back.model, back.version, back.label) == (reply.model, reply.version, reply.label)
        assert back.failure == stored.failure
        for ours, theirs in zip(back.outputs, stored.outputs, strict=True):
            assert (ours.name, ours.datatype, ours.shape) == (theirs.name, theirs.datatype, theirs.shape)
            np.testing.assert_array_equal(ours.array(), theirs.array())


@given(st.binary(max_size=60), st.sampled_from([b"application/json", b"application/msgpack", b"text/html", b"", None]))
def test_any_record_is_an_answer_or_a_codec_error(value: bytes, kind: bytes | None) -> None:
    stranger = Record("penstock.results.job", 0, 0, 0.0, value, [("id", b"x"), ("content-type", kind)])
    with contextlib.suppress(CodecError):
        answers.decode_answer(stranger)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["outputs", "name", "datatype", "shape", "data", "error", "code", "id", "model_name", "parameters"]
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_any_json_is_an_answer_or_a_codec_error(value: object) -> None:
    with contextlib.suppress(CodecError):
        answers.parse_response_body(json.dumps(value).encode())


@pytest.mark.parametrize(
    "record_",
    [
        Record("t", 0, 0, 0.0, b"{}", []),
        Record("t", 0, 0, 0.0, b"{}", [("id", b"\xff")]),
        Record("t", 0, 0, 0.0, b"{}", [("id", b"a")], problem="damaged"),
        Record("t", 0, 0, 0.0, b"{}", [("id", b"a"), ("content-type", b"text/html")]),
        Record(
            "t", 0, 0, 0.0, b'{"error": "x", "code": "NO_SUCH"}', [("id", b"a"), ("content-type", b"application/json")]
        ),
    ],
)
def test_what_is_no_answer_is_a_codec_error(record_: Record) -> None:
    with pytest.raises(CodecError):
        answers.decode_answer(record_)


def test_numbers_that_json_has_not_survive_or_are_refused_with_a_way_out() -> None:
    nan = InferReply("m", "1", outputs=(Tensor("Y", "FP32", (2,), np.array([math.nan, 1], "<f4").tobytes()),))
    infinite = dataclasses.replace(nan, outputs=(Tensor("Y", "FP64", (1,), np.array([math.inf], "<f8").tobytes()),))
    half = dataclasses.replace(nan, outputs=(Tensor("Y", "FP16", (1,), b"\0\0"),))

    assert math.isnan(answers.decode_answer(fetched(record(JSON, nan)))[1].outputs[0].array()[0])
    for reply in (infinite, half):
        failure = answers.decode_answer(fetched(record(JSON, reply)))[1].failure
        assert failure is not None
        assert failure.code is Code.INVALID_ARGUMENT
        assert "accept: application/msgpack" in failure.message
        assert answers.decode_answer(fetched(record(MSGPACK, reply)))[1].failure is None


def test_json_over_the_limit_of_a_record_is_too_large() -> None:
    rows = MAX_RECORD // 16
    numbers = np.frombuffer(random.Random(1).randbytes(8 * rows), "<i8")
    reply = InferReply("m", "1", "label", (Tensor("Y", "INT64", (rows,), numbers.tobytes()),), timing=Timing(1.0, 2.0))

    out = record(JSON, reply)

    failure = answers.decode_answer(fetched(out))[1].failure
    assert failure is not None
    assert failure.code is Code.TOO_LARGE
    assert f"a record may have {MAX_RECORD}" in failure.message
    assert len(record(MSGPACK, reply).value) < MAX_RECORD


def test_an_answer_that_its_topic_refuses_is_a_small_failure_with_the_same_times() -> None:
    payload = codec.encode_reply(REPLY)

    out = answers.too_large(
        codec.decode_reply(payload), asked(MSGPACK), len(payload), "the topic's max.message.bytes is smaller"
    )

    reply = answers.decode_answer(fetched(out))[1]
    assert reply.failure is not None
    assert reply.failure.code is Code.TOO_LARGE
    assert reply.timing == codec.decode_reply(payload).timing
    assert dict(out.headers)["error"] == b"TOO_LARGE"


# From Kafka's UtilsTest.testMurmur2.
VECTORS = {
    b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829, b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}  # fmt: skip


@pytest.mark.parametrize("key", VECTORS)
def test_the_hash_is_that_of_kafkas_java_client(key: bytes) -> None:
    assert answers.murmur2(key) == VECTORS[key] & 0xFFFFFFFF


@given(st.binary(max_size=40), st.integers(1, 100))
def test_a_key_has_the_partition_that_any_client_finds(key: bytes, count: int) -> None:
    assert answers.murmur2(key) == aiokafkas_murmur2(key)
    assert answers.partition_of(key, count) == (aiokafkas_murmur2(key) & 0x7FFFFFFF) % count


def test_failures_of_every_code_are_read_back() -> None:
    for code in Code:
        for accept in (JSON, MSGPACK):
            out = record(accept, InferReply("m", "1", failure=Failure(code, "why")))
            assert answers.decode_answer(fetched(out))[1].failure == Failure(code, "why")


@given(st.binary(max_size=60))
def test_whatever_the_store_has_gives_an_answer(payload: bytes) -> None:
    for accept in (JSON, MSGPACK):
        request_id, reply = answers.decode_answer(fetched(answers.encode_answer(payload, asked(accept))))
        assert request_id == "row-1"
        assert reply.failure is not None
        assert reply.failure.code is Code.INTERNAL
