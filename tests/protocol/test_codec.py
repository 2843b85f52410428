from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import codec, frames, heartbeat_codec
from protocol.errors import Code, CodecError, FleetError
from protocol.messages import Announcement, Failure, Heartbeat, InferReply, InferRequest, ModelLoad, ModelState, Timing
from protocol.ports import Headers
from protocol.tensors import Tensor
from tests.strategies import replies, requests

GOLDEN = Path(__file__).parent / "golden"

REQUEST = InferRequest(
    id="6f1c", model="addsub", version="1",
    inputs=(Tensor("A", "FP32", (1, 2), b"\0\0\x80?\0\0\0@"), Tensor("S", "BYTES", (1,), b"\x02\0\0\0hi")),
    outputs=("SUM",), parameters={"k": 3}, label="1", principal="key", reply_to="penstock:gateway:gw-1",
    deadline=1_800_000_000.5, priority=2, timeout=0.25, traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    claimed=True, accepted=1_800_000_000.0, published=1_800_000_000.000250,
)  # fmt: skip
TIMING = Timing(
    1_800_000_000.0, 1_800_000_000.00025, 1_800_000_000.001, 1_800_000_000.0011, 1_800_000_000.0015, 1_800_000_000.0016,
    1_800_000_000.002, 1_800_000_000.0021, "delay", 8, 5, 1, "worker-1",
)  # fmt: skip
REPLY = InferReply("addsub", "1", "1", (Tensor("SUM", "FP32", (1,), b"\0\0@@"),), {"note": "ok"}, None, TIMING)
FAILURE = InferReply("addsub", "1", "", failure=Failure(Code.MODEL_FAILED, "it raised"), timing=TIMING)
ANNOUNCEMENT = Announcement("addsub", "1", ModelState.READY, {"name": "addsub"}, "ab12", "", 1_800_000_000.0, 4)
HEARTBEAT = Heartbeat(
    "worker-1", "c0ffee", "host", 42, 1_800_000_000.0,
    (ModelLoad("addsub", "1", ModelState.READY, (0, 2), 3, 2, 8, 5, 0.5, {"FP32[2]/8": 0.001}, {"inference_count": 9}),),
    {"penstock.infer.addsub.1": "worker-1-x"}, False,
)  # fmt: skip
HEARTBEAT_OF_BATCHES = dataclasses.replace(
    HEARTBEAT,
    models=(dataclasses.replace(HEARTBEAT.models[0], batch_partitions=(1, 3), batch_lag=70, batch_queued_rows=512),),
)
HEARTBEAT_OF_WAITING = dataclasses.replace(
    HEARTBEAT_OF_BATCHES,
    models=(
        dataclasses.replace(
            HEARTBEAT_OF_BATCHES.models[0], unanswered=3, unread=40, batch_unanswered=2, batch_unread=68, batch_oldest_age=90.5,
            batch_running_rows=8,
        ),
    ),
)  # fmt: skip


def encoded_request(request: InferRequest) -> bytes:
    value, headers = codec.encode_request(request)
    return frames.pack([value, headers])


GOLDEN_FILES = {
    "request": encoded_request(REQUEST),
    "reply": codec.encode_reply(REPLY),
    "failure": codec.encode_reply(FAILURE),
    "announcement": b"".join(heartbeat_codec.encode_announcement(ANNOUNCEMENT)),
    "heartbeat": heartbeat_codec.encode_heartbeat(HEARTBEAT),
    "heartbeat-batches": heartbeat_codec.encode_heartbeat(HEARTBEAT_OF_BATCHES),
    "heartbeat-waiting": heartbeat_codec.encode_heartbeat(HEARTBEAT_OF_WAITING),
}


@pytest.mark.parametrize("accept", ["", "application/json", "application/msgpack"])
def test_the_wanted_type_of_an_answer_is_a_header(accept: str) -> None:
    value, headers = codec.encode_request(dataclasses.replace(REQUEST, accept=accept))
    assert decode(value, headers).accept == accept


def test_an_answer_has_the_type_of_its_request_unless_another_is_asked_for() -> None:
    body = b'{"inputs": [{"name": "A", "datatype": "FP32", "shape": [1], "data": [1]}]}'
    assert decode(body, [("content-type", b"application/json")]).accept == "application/json"
    assert (
        decode(body, [("content-type", b"application/json"), ("accept", b"application/msgpack")]).accept
        == "application/msgpack"
    )
    with pytest.raises(
        CodecError, match="header 'accept' must be application/json or application/msgpack, not 'text/html'"
    ):
        decode(body, [("content-type", b"application/json"), ("accept", b"text/html")])


def test_a_body_that_begins_with_a_brace_is_json_where_no_header_says_what_it_is() -> None:
    body = b'{"inputs": [{"name": "A", "datatype": "FP32", "shape": [1], "data": [1]}]}'
    for headers in ([], [("content-type", None)], [("content-type", b"")]):
        assert decode(body, headers).accept == "application/json"
        assert decode(body, headers).inputs[0].array().tolist() == [1.0]
    for value, kind in ((body, b"application/msgpack"), (b" " + body, b""), (b"", b"")):
        with pytest.raises(CodecError, match=r"msgpack|map"):
            decode(value, [("content-type", kind)])


def decode(value: bytes, headers: Headers, **more: object) -> InferRequest:
    arguments = {"model": "addsub", "version": "1", "default_id": "t-0-1", "timestamp": 5.0} | more
    return codec.decode_request(value, headers, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_the_wire_format_is_the_golden_files(name: str) -> None:
    """To change the format on purpose: raise WIRE_VERSION, keep the old files readable, write new ones beside them."""
    assert (GOLDEN / f"{name}.v1.bin").read_bytes() == GOLDEN_FILES[name]


def test_golden_files_decode_to_their_messages() -> None:
    value, headers = frames.unpack((GOLDEN / "request.v1.bin").read_bytes())

    assert decode(value, [tuple(pair) for pair in headers]) == REQUEST
    assert codec.decode_reply((GOLDEN / "reply.v1.bin").read_bytes()) == REPLY
    assert codec.decode_reply((GOLDEN / "failure.v1.bin").read_bytes()) == FAILURE
    assert heartbeat_codec.decode_heartbeat((GOLDEN / "heartbeat.v1.bin").read_bytes()) == HEARTBEAT
    batches = heartbeat_codec.decode_heartbeat((GOLDEN / "heartbeat-batches.v1.bin").read_bytes())
    assert batches == HEARTBEAT_OF_BATCHES
    waiting = heartbeat_codec.decode_heartbeat((GOLDEN / "heartbeat-waiting.v1.bin").read_bytes())
    assert waiting == HEARTBEAT_OF_WAITING
    assert heartbeat_codec.decode_announcement(heartbeat_codec.encode_announcement(ANNOUNCEMENT)[1]) == ANNOUNCEMENT


def test_what_a_heartbeat_says_of_the_batch_lane_comes_after_what_older_readers_know() -> None:
    """They take 11 fields and a digest, and look no further."""
    new = frames.unpack(heartbeat_codec.encode_heartbeat(HEARTBEAT_OF_BATCHES))["models"][0]
    old = frames.unpack(heartbeat_codec.encode_heartbeat(HEARTBEAT))["models"][0]
    assert new[: len(old)] == old
    assert new[11:] == ["", [1, 3], 70, 512]
    newest = frames.unpack(heartbeat_codec.encode_heartbeat(HEARTBEAT_OF_WAITING))["models"][0]
    assert newest[: len(new)] == new
    assert newest[15:] == ["", [], 0, 0, 3, 40, 2, 68, 90_500_000, 8]


@given(requests)
def test_a_request_survives_the_wire(request: InferRequest) -> None:
    value, headers = codec.encode_request(request)

    back = decode(value, headers, model=request.model, version=request.version)

    assert dataclasses.replace(back, accepted=0, published=0, deadline=0, timeout=0) == dataclasses.replace(
        request, accepted=0, published=0, deadline=0, timeout=0
    )
    for field in ("accepted", "published", "timeout"):
        assert getattr(back, field) == pytest.approx(getattr(request, field), abs=2e-6)


@given(requests)
def test_a_head_that_is_remembered_says_what_it_said_when_it_was_read(request: InferRequest) -> None:
    plain = dataclasses.replace(request, label="", parameters={})
    value, headers = codec.encode_request(plain)

    remembered = decode(value, headers)
    labelled = decode(*codec.encode_request(dataclasses.replace(plain, label="the long way")))

    assert remembered == decode(bytes(bytearray(value)), headers)
    assert dataclasses.replace(labelled, label="") == remembered


def test_a_remembered_head_is_not_taken_for_a_tail_of_another_size() -> None:
    value, headers = codec.encode_request(
        dataclasses.replace(REQUEST, inputs=REQUEST.inputs[:1], label="", parameters={})
    )
    decode(value, headers)
    end = 6 + int.from_bytes(value[2:6])

    for size in (7, 9):
        with pytest.raises(CodecError, match="bytes"):
            decode(value[: end + 1] + size.to_bytes(4) + bytes(size), headers)


@given(replies)
def test_a_reply_survives_the_wire(reply: InferReply) -> None:
    back = codec.decode_reply(codec.encode_reply(reply))

    assert dataclasses.replace(back, timing=reply.timing) == reply
    assert back.timing.compute_end == pytest.approx(reply.timing.compute_end, abs=2e-6)
    assert back.timing.computed == pytest.approx(reply.timing.computed, abs=2e-6)
    assert back.timing.digest == reply.timing.digest


def test_tensors_are_views_of_the_record() -> None:
    value, headers = codec.encode_request(REQUEST)

    data = decode(value, headers).inputs[0].data

    assert isinstance(data, memoryview)
    assert data.obj is value


@given(st.binary(max_size=200), st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=20)), max_size=4))
def test_random_bytes_raise_the_codecs_error_and_nothing_else(value: bytes, headers: list[tuple[str, bytes]]) -> None:
    for attempt in (
        lambda: decode(value, headers),
        lambda: decode(value, [*headers, ("content-type", b"application/json")]),
        lambda: codec.decode_reply(value),
        lambda: heartbeat_codec.decode_heartbeat(value),
        lambda: heartbeat_codec.decode_announcement(value),
    ):
        with contextlib.suppress(CodecError):
            attempt()


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=6)
    | st.binary(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["v", "inputs", "outputs", "id", "parameters", "name", "datatype", "shape", "size", "data", "stamps", "batch", "models",
     "error", "model_name", "model_version", "release", "attempt", "worker", "members", "at", "state", "config"]
)  # fmt: skip


@given(st.dictionaries(FIELDS, plain, max_size=6), st.dictionaries(FIELDS, plain, max_size=4))
def test_maps_of_the_right_names_with_wrong_values_raise_only_the_codecs_error(
    head: dict[str, object], tensor: dict[str, object]
) -> None:
    for value in (head, head | {"inputs": [tensor], "v": 1}, head | {"outputs": [tensor], "v": 1}):
        packed = msgpack.packb(value, use_bin_type=True)
        for attempt in (
            lambda packed=packed: decode(packed, []),
            lambda packed=packed: codec.decode_reply(packed),
            lambda packed=packed: heartbeat_codec.decode_heartbeat(packed),
            lambda packed=packed: heartbeat_codec.decode_announcement(packed),
        ):
            with contextlib.suppress(CodecError):
                attempt()


@given(
    st.dictionaries(FIELDS, plain, max_size=6), st.dictionaries(FIELDS, plain, max_size=4), plain, st.binary(max_size=9)
)
def test_frames_of_such_maps_raise_only_the_codecs_error(
    head: dict[str, object], tensor: dict[str, object], timing: object, tail: bytes
) -> None:
    names = {"v": 1, "model_name": "m", "model_version": "1"}
    for value in (head, head | {"inputs": [tensor]}, {"inputs": [tensor]}, names | {"outputs": [tensor]}, names | head):
        request = frames.join_frame(frames.pack(value), [Tensor("", "", (), tail)])
        reply = frames.join_frame(frames.pack(value), [Tensor("", "", (), tail)], frames.pack(timing))
        with contextlib.suppress(CodecError):
            decode(request, [])
        with contextlib.suppress(CodecError):
            codec.decode_reply(reply)


@given(requests, st.data())
def test_a_truncated_request_is_refused(request: InferRequest, data: st.DataObject) -> None:
    value, headers = codec.encode_request(request)
    cut = data.draw(st.integers(0, len(value) - 1))

    with pytest.raises(CodecError):
        decode(value[:cut], headers)


@given(requests, st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_gives_a_message_or_the_codecs_error(request: InferRequest, position: int, flip: int) -> None:
    value, headers = codec.encode_request(request)
    broken = bytearray(value)
    broken[position % len(broken)] ^= flip

    with contextlib.suppress(CodecError):
        decode(bytes(broken), headers)


def test_a_foreign_producer_may_send_one_plain_map_with_inline_data() -> None:
    value = msgpack.packb({"inputs": [{"name": "A", "datatype": "FP32", "shape": [1], "data": b"\0\0\x80?"}]})

    request = decode(value, [("deadline", b"7000000")])

    assert request.inputs[0].array().tolist() == [1.0]
    assert (request.id, request.deadline, request.accepted) == ("t-0-1", 7.0, 5.0)


def test_a_foreign_producer_may_send_a_v2_json_body() -> None:
    body = b'{"id":"7","inputs":[{"name":"A","datatype":"INT64","shape":[2],"data":[1,2]}],"outputs":[{"name":"B"}]}'

    request = decode(body, [("content-type", b"application/json"), ("id", b"order-1"), ("principal", b"bob")])

    assert request.inputs[0].array().tolist() == [1, 2]
    assert (request.id, request.principal, request.label, request.outputs) == ("order-1", "bob", "7", ("B",))


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ([("schema", b"penstock/9")], "schema"),
        ([("deadline", b"-1")], "deadline"),
        ([("priority", b"1" * 19)], "priority"),
        ([("id", b"\xff")], "'id' is not UTF-8"),
        ([("reply-to", b"x" * 1025)], "at most 1024"),
    ],
)
def test_bad_headers_are_named(headers: list[tuple[str, bytes]], text: str) -> None:
    value, good = codec.encode_request(REQUEST)

    with pytest.raises(CodecError, match=text):
        decode(value, [*good, *headers])


_HEADERS = st.sampled_from(
    [
        "id",
        "principal",
        "reply-to",
        "deadline",
        "priority",
        "timeout",
        "traceparent",
        "content-type",
        "schema",
        "stamps",
        "claimed",
    ]
) | st.text(max_size=5)
_CONTENTS = st.one_of(
    st.none(), st.binary(max_size=20), st.integers(0, 2**70).map(lambda n: b"%d" % n), st.binary(min_size=16, max_size=16),
    st.sampled_from([codec.SCHEMA, codec.JSON, codec.MSGPACK, b"x" * 2000]),
)  # fmt: skip


@given(
    st.sampled_from([codec.encode_request(REQUEST)[0], b""]) | st.binary(max_size=40),
    st.lists(st.tuples(_HEADERS, _CONTENTS), max_size=8),
    st.floats(),
)
def test_a_record_with_anything_in_it_is_a_request_or_the_codecs_error(
    value: bytes, headers: list[tuple[str, bytes | None]], timestamp: float
) -> None:
    try:
        request = decode(value, headers, timestamp=timestamp)
    except FleetError:
        return
    times = (request.accepted, request.published, request.deadline or 0.0, request.timeout)
    assert all(0 <= at <= codec.MAX_NUMBER / 1e6 for at in times)
    reply = InferReply("m", "1", timing=Timing(request.accepted, request.published))
    assert codec.decode_reply(codec.encode_reply(reply)).timing.accepted == pytest.approx(request.accepted, abs=1e-6)
    assert decode(*codec.encode_request(request)).deadline == request.deadline


@pytest.mark.parametrize("nothing", [None, b""])
def test_a_null_or_empty_header_says_nothing(nothing: bytes | None) -> None:
    value, headers = codec.encode_request(REQUEST)
    empty = [(name, nothing) for name, _ in headers]

    assert decode(value, [*headers, *empty]) == decode(value, [])


def test_unknown_headers_and_fields_are_ignored() -> None:
    value = msgpack.packb({"inputs": [], "colour": "red"})

    assert decode(value, [("x-colour", b"red")]).inputs == ()


def test_a_reply_of_an_unknown_version_is_refused() -> None:
    with pytest.raises(CodecError, match="wire version 9"):
        codec.decode_reply(frames.join_frame(msgpack.packb({"v": 9}), (), frames.pack([0] * 8 + ["", 1, 1, 1, ""])))


def test_an_oversized_record_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(CodecError, match="at most"):
        decode(bytes(frames.MAX_RECORD + 1), [])


def test_a_failure_becomes_the_error_of_its_code() -> None:
    error = Failure(Code.DEADLINE_EXCEEDED, "too late").error()

    assert isinstance(error, FleetError)
    assert (error.code, error.retryable, str(error)) == (Code.DEADLINE_EXCEEDED, True, "too late")


def test_a_heartbeat_tells_what_it_was_asked() -> None:
    for asked in (None, (), ("a", "b")):
        beat = dataclasses.replace(HEARTBEAT, asked=asked)
        assert heartbeat_codec.decode_heartbeat(heartbeat_codec.encode_heartbeat(beat)).asked == asked


@pytest.mark.parametrize(
    ("said", "read"), [(None, 0), (3, 3), (-1, 0), ("3", 0), (2.5, 0), (float("inf"), 0), (True, 0), ([1], 0)]
)
def test_a_heartbeat_tells_restarts_and_a_number_that_cannot_be_true_is_none(said: object, read: int) -> None:
    head = frames.unpack(heartbeat_codec.encode_heartbeat(HEARTBEAT))
    assert "restarts" not in head
    packed = frames.pack(head if said is None else head | {"restarts": said})
    assert heartbeat_codec.decode_heartbeat(packed).restarts == read
    again = dataclasses.replace(HEARTBEAT, restarts=read)
    assert heartbeat_codec.decode_heartbeat(heartbeat_codec.encode_heartbeat(again)) == again


def test_an_answer_and_a_heartbeat_name_the_files_that_served() -> None:
    reply = dataclasses.replace(REPLY, timing=dataclasses.replace(TIMING, digest="0123456789ab"))
    assert codec.decode_reply(codec.encode_reply(reply)).timing.digest == "0123456789ab"
    load = dataclasses.replace(HEARTBEAT.models[0], digest="f" * 64)
    beat = dataclasses.replace(HEARTBEAT, models=(load,))
    assert heartbeat_codec.decode_heartbeat(heartbeat_codec.encode_heartbeat(beat)) == beat


@given(requests)
def test_the_size_limit_of_a_message_needs_no_encoding(request: InferRequest) -> None:
    value, _ = codec.encode_request(request)
    limit = codec.size_limit(request.inputs, request.label, request.parameters)

    assert len(value) <= limit


@given(replies)
def test_the_size_limit_of_an_answer_needs_no_encoding(reply: InferReply) -> None:
    if reply.failure is None:
        assert len(codec.encode_reply(reply)) <= codec.size_limit(reply.outputs, reply.label, reply.parameters)
