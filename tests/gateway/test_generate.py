"""The generate routes: how JSON becomes tensors, and an answer JSON."""

from __future__ import annotations

import contextlib
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rest.generating import parse_generate, write_generated
from protocol.errors import Code, CodecError
from protocol.messages import Failure, InferReply
from protocol.tensors import Tensor, from_array
from tests.gateway.fleet import ADD_SUB, ANY, HALF, TEXT, Running, Site

INPUTS: list[tuple[str, str, tuple[int, ...]]] = [
    ("TEXT", "BYTES", (-1, 1)),
    ("N", "INT32", (-1, -1)),
    ("M", "FP32", (-1, 2, -1)),
    ("MM", "FP32", (-1, -1, -1)),
    ("B", "BOOL", (1,)),
]


def shapes(body: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tensor.shape for tensor in parse_generate(orjson.dumps(body), INPUTS).inputs}


@pytest.mark.parametrize(
    ("body", "expected"),
    [  # as a Triton 2.51 shapes them
        ({"TEXT": "hi"}, {"TEXT": (1, 1)}),
        ({"TEXT": ["hi", "ho"]}, {"TEXT": (2, 1)}),
        ({"N": [1, 2, 3]}, {"N": (1, 3)}),
        ({"N": 7}, {"N": (1, 1)}),
        ({"N": []}, {"N": (1, 0)}),
        ({"M": [1, 2, 3, 4]}, {"M": (1, 2, 2)}),
        ({"MM": [1, 2, 3, 4]}, {"MM": (1, 1, 4)}),
        ({"B": True}, {"B": (1,)}),
        ({"TEXT": "hi", "parameters": {"N": [1, 2]}}, {"TEXT": (1, 1), "N": (1, 2)}),
    ],
)
def test_shapes(body: dict[str, Any], expected: dict[str, tuple[int, ...]]) -> None:
    assert shapes(body) == expected


def test_other_keys_are_parameters_and_id_is_the_id() -> None:
    parsed = parse_generate(b'{"id":"r","TEXT":"a","x":1,"x":2,"parameters":{"y":"z","id":"q"},"b":true}', INPUTS)

    assert (parsed.id, parsed.parameters) == ("r", {"x": 2, "y": "z", "id": "q", "b": True})


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "failed to parse the request JSON buffer"), (b"", "failed to parse"), (b"[]", "must be a JSON object"),
        (b'{"M":[1,2,3]}', "The schema can not convert input 'M' to tensor with proper shape"),
        (b'{"B":[true,false]}', "The schema can not convert input 'B'"), (b'{"B":[]}', "can not convert input 'B'"),
        (b'{"M":[[1,2],[3,4]]}', "Shape does not match"), (b'{"N":"7"}', "input 'N'"), (b'{"N":7.5}', "input 'N'"),
        (b'{"B":1}', "input 'B'"), (b'{"TEXT":5}', "BYTES must hold strings"), (b'{"TEXT":null}', "BYTES must hold strings"),
        (b'{"TEXT":{}}', "BYTES must hold strings"), (b'{"id":5}', "'id' must be a string"),
        (b'{"parameters":5}', "Expected JSON object for keyword: 'parameters'"), (b'{"parameters":null}', "Expected JSON object"),
        (b'{"x":null}', "parameter 'x' has invalid type"), (b'{"x":[1]}', "parameter 'x' has invalid type"),
        (b'{"parameters":{"parameters":{}}}', "parameter 'parameters' has invalid type"), (b'{"triton_x":1}', "reserved"),
        (b'{"TEXT":"a","TEXT":"b"}', "[request id: <id_unknown>] input 'TEXT' already exists in request"),
        (b'{"id":"r","TEXT":"a","parameters":{"TEXT":"b"}}', "[request id: r] input 'TEXT' already exists in request"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(body: bytes, text: str) -> None:
    with pytest.raises(CodecError) as caught:
        parse_generate(body, INPUTS)
    assert text in caught.value.message


def test_an_input_called_parameters_or_id() -> None:
    assert parse_generate(b'{"id":5}', [("id", "INT32", (1,))]).inputs[0].shape == (1,)
    with pytest.raises(CodecError, match="also given as input tensor name"):
        parse_generate(b'{"parameters":{}}', [("parameters", "INT32", (1,))])


def test_a_value_that_looks_like_an_inputs_name_is_no_second_input() -> None:
    assert parse_generate(b'{"TEXT":"TEXT","y":"TEXT","parameters":{"x":"TEXT"}}', INPUTS).inputs[0].shape == (1, 1)


def test_answers() -> None:
    outputs = (
        from_array("B", np.array([[True, False]])), from_array("F", np.array([0.1])), from_array("I", np.array([2**62 + 1])),
        from_array("N", np.array([np.nan], np.float32)), Tensor("S", "BYTES", (1,), b"\x01\0\0\0s"),
        Tensor("T", "BYTES", (2,), b"\0\0\0\0\x01\0\0\0t"), from_array("Z", np.zeros((1, 0))),
    )  # fmt: skip

    text = write_generated(InferReply("m", "1", "r", outputs, {"p": 1}))

    assert text == (
        b'{"B":[true,false],"F":0.1,"I":4611686018427387905,"N":null,"S":"s","T":["","t"],"Z":[],"id":"r",'
        b'"model_name":"m","model_version":"1","p":1}'
    )
    for tensor in (from_array("I", np.array([np.inf])), from_array("H", np.zeros(1, np.float16))):
        with pytest.raises(CodecError):
            write_generated(InferReply("m", "1", outputs=(tensor,)))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["TEXT", "N", "M", "B", "id", "parameters", "x"]), inner, max_size=4)
        ),
        max_leaves=8,
    )
)
def test_whatever_is_sent_raises_only_our_errors(value: Any) -> None:
    raw = orjson.dumps(value) if not isinstance(value, float) or np.isfinite(value) else b"1e999"
    with contextlib.suppress(CodecError):
        parse_generate(raw, INPUTS)


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def gateway(fleet: Site) -> Running:
    for config in (ANY, TEXT, ADD_SUB, HALF):
        await fleet.worker(config, name=config["name"])
    return await fleet.gateway()


def event(answer: httpx.Response) -> Any:
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.content.startswith(b"data: ")
    assert answer.content.endswith(b"\n\n")
    return orjson.loads(answer.content[6:])


async def test_generate_and_its_stream(gateway: Running) -> None:
    expected = {"OUT": "hi", "id": "r", "model_name": "text", "model_version": "1"}
    for base in ("/v2/models/text", "/v2/models/text/versions/1"):
        answer = await gateway.post(f"{base}/generate", json={"IN": "hi", "id": "r"})
        stream = await gateway.post(f"{base}/generate_stream", json={"IN": "hi", "id": "r"})
        assert (answer.status_code, answer.json(), answer.headers["content-type"]) == (
            200,
            expected,
            "application/json",
        )
        assert (stream.status_code, event(stream)) == (200, expected)
        assert answer.headers["penstock-request-id"] != stream.headers["penstock-request-id"]


async def test_a_keyed_generate_runs_once(gateway: Running) -> None:
    answers = [
        await gateway.post("/v2/models/text/generate", json={"IN": "hi"}, headers={"idempotency-key": "k"})
        for _ in "ab"
    ]
    assert [answer.json()["OUT"] for answer in answers] == ["hi", "hi"]
    assert len({answer.headers["penstock-request-id"] for answer in answers}) == 1


async def test_an_asynchronous_generate_is_fetched_in_v2_form(gateway: Running) -> None:
    accepted = await gateway.post("/v2/models/text/generate", json={"IN": "hi"}, headers={"prefer": "respond-async"})
    assert accepted.status_code == 202
    answer = await gateway.get(accepted.headers["location"] + "?wait_s=10")
    assert answer.json()["outputs"][0]["data"] == ["hi"]


async def test_a_large_generate_is_parsed_and_written_elsewhere(gateway: Running) -> None:
    values = [float(number) for number in range(300_000)]
    answer = await gateway.post("/v2/models/any/generate", json={"IN": values})
    assert answer.json()["OUT"] == values
    stream = await gateway.post("/v2/models/text/generate_stream", json={"IN": ["a"] * 5000})
    assert event(stream)["OUT"] == ["a"] * 5000


@pytest.mark.parametrize("verb", ["generate", "generate_stream"])
@pytest.mark.parametrize(
    ("path", "content", "headers", "status", "text"),
    [
        ("text", b"{}", {}, 400, "expected 1 inputs but got 0 inputs"),
        (
            "text",
            b'{"IN":"a"}',
            {"content-encoding": "gzip"},
            400,
            "Unsupported content-encoding, only 'identity' is supported.",
        ),
        ("nope", b"{}", {}, 404, "Request for unknown model: 'nope' is not found"),
        ("text/versions/9", b"{}", {}, 404, "version 9 is not found"),
        ("half", b'{"IN":[1,2]}', {}, 400, "receiving FP16 data via JSON is not supported"),
        ("text", b'{"IN":"a","priority":"x"}', {}, 400, "priority"),
        ("text", b'{"IN":"a","sequence_start":1}', {}, 400, "sequence_start"),
    ],
)
async def test_refusals_are_plain_json(
    gateway: Running, verb: str, path: str, content: bytes, headers: dict[str, str], status: int, text: str
) -> None:
    answer = await gateway.post(f"/v2/models/{path}/{verb}", content=content, headers=headers)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert text in answer.json()["error"]


async def test_identity_and_a_header_length_change_nothing(gateway: Running) -> None:
    headers = {"content-encoding": "identity", "inference-header-content-length": "3", "accept-encoding": "gzip"}
    answer = await gateway.post("/v2/models/text/generate", json={"IN": "a" * 3000}, headers=headers)
    assert answer.json()["OUT"] == "a" * 3000
    assert "content-encoding" not in answer.headers


async def test_a_failed_model_answers_an_event(fleet: Site) -> None:
    worker = await fleet.worker(TEXT)
    worker.fail = Failure(Code.MODEL_FAILED, "said so")
    gateway = await fleet.gateway()
    stream = await gateway.post("/v2/models/text/generate_stream", json={"IN": "a"})
    plain = await gateway.post("/v2/models/text/generate", json={"IN": "a"})
    assert (stream.status_code, event(stream)) == (500, {"error": "said so"})
    assert (plain.status_code, plain.json()) == (500, {"error": "said so"})


async def test_get_is_not_allowed(gateway: Running) -> None:
    for verb in ("generate", "generate_stream", "infer"):
        answer = await gateway.get(f"/v2/models/text/{verb}")
        assert (answer.status_code, answer.json()) == (405, {"error": "Method Not Allowed"})
