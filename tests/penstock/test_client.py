from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import orjson
import pytest

from penstock.client import AsyncClient, Client, requests
from penstock.client.requests import InferOptions
from protocol import bfloat16, v2
from protocol.errors import Code, CodecError, FleetError, InvalidArgument, Unavailable
from protocol.tensors import Tensor, from_array
from tests.gateway.fleet import ANY, Site, site


@pytest.fixture
async def fleet() -> AsyncIterator[Site]:
    async with site() as made:
        yield made


def test_a_request_is_one_that_the_gateway_reads() -> None:
    inputs = {"A": np.arange(4, dtype=np.float32)[None], "T": np.array([["hi"]])}
    made = requests.infer(
        "m x", inputs, InferOptions(version="2", outputs=("S",), label="7", timeout=1.5, idempotency_key="k")
    )

    parsed = v2.parse_body(made.body, int(made.headers["Inference-Header-Content-Length"]))

    assert made.path == "/v2/models/m%20x/versions/2/infer"
    assert [tensor.array().tolist() for tensor in parsed.inputs] == [[[0, 1, 2, 3]], [[b"hi"]]]
    assert (parsed.id, parsed.output_names, parsed.binary_default) == ("7", ("S",), True)
    assert (made.headers["Penstock-Timeout-Ms"], made.headers["Idempotency-Key"]) == ("1500", "k")


def test_bfloat16_goes_out_as_such_and_is_named_in_the_answer() -> None:
    made = requests.infer("m", {"A": from_array("A", np.array([0x3F80], np.uint16), "BF16")}, InferOptions())
    parsed = v2.parse_body(made.body, int(made.headers["Inference-Header-Content-Length"]))
    body = v2.encode_response("m", "1", "", {}, list(parsed.inputs), frozenset({"A"}))

    result = requests.result(
        {"inference-header-content-length": str(body.header_length)}, b"".join(bytes(part) for part in body.parts)
    )

    assert parsed.inputs[0].datatype == "BF16"
    assert (result.outputs["A"].tolist(), result.datatypes) == ([0x3F80], {"A": "BF16"})


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1.0, 1.0),
        (-2.5, -2.5),
        (1.00390625, 1.0),
        (1.01171875, 1.015625),
        (1e39, np.inf),
        (float("nan"), np.nan),
        (3.4e38, np.inf),
    ],
)
def test_bfloat16_is_the_nearest(value: float, rounded: float) -> None:
    with np.errstate(over="ignore"):
        bits = bfloat16.to_bits([value])

    assert np.array_equal(bfloat16.to_floats(bits), np.float32([rounded]), equal_nan=True)


def test_a_shape_of_other_numbers_is_not_remembered_for_the_next_request() -> None:
    data = bytes(8)
    odd = requests.infer("m", {"A": Tensor("A", "FP32", (True, np.int64(2)), data)}, InferOptions())
    plain = requests.infer("m", {"A": Tensor("A", "FP32", (1, 2), data)}, InferOptions())

    assert odd.body == plain.body
    assert b'"shape":[1,2]' in plain.body
    with pytest.raises(CodecError, match="whole numbers"):
        requests.infer("m", {"A": Tensor("A", "FP32", (1.0, 2), data)}, InferOptions())  # type: ignore[arg-type]


def test_an_asynchronous_request_says_so() -> None:
    assert requests.infer("m", {}, InferOptions(), wait=False).headers["Prefer"] == "respond-async"


@pytest.mark.parametrize("binary", [True, False])
def test_an_answer_becomes_arrays(binary: bool) -> None:
    outputs = [from_array("S", np.array([[1.5, 2]], np.float32)), from_array("N", np.array([[3]]))]
    body = v2.encode_response("m", "1", "7", {"k": 1}, outputs, frozenset({"S"} if binary else ()))
    headers = {"penstock-request-id": "id"}
    if body.header_length is not None:
        headers["inference-header-content-length"] = str(body.header_length)

    result = requests.result(headers, b"".join(bytes(part) for part in body.parts))

    assert {name: array.tolist() for name, array in result.outputs.items()} == {"S": [[1.5, 2]], "N": [[3]]}
    assert (result.label, result.parameters, result.request_id) == ("7", {"k": 1}, "id")


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, Code.INVALID_ARGUMENT), (429, Code.EXHAUSTED), (504, Code.DEADLINE_EXCEEDED), (500, Code.INTERNAL)],
)
def test_an_error_has_the_gateways_words_and_code(status: int, code: Code) -> None:
    with pytest.raises(FleetError, match="what is wrong") as caught:
        requests.check(status, {"retry-after": "2"}, orjson.dumps({"error": "what is wrong"}))

    assert (caught.value.code, caught.value.retry_after) == (code, 2.0)


@pytest.mark.parametrize(("named", "code"), [("MODEL_FAILED", Code.MODEL_FAILED), ("NO_SUCH_CODE", Code.INTERNAL)])
def test_a_code_that_the_gateway_names_is_more_exact_than_the_status(named: str, code: Code) -> None:
    with pytest.raises(FleetError) as caught:
        requests.check(500, {"penstock-error": named}, orjson.dumps({"error": "the model raised"}))

    assert caught.value.code is code


def test_an_answer_of_something_else_is_said_to_be_one() -> None:
    with pytest.raises(CodecError, match="not a V2 response"):
        requests.result({}, b"<html>")
    with pytest.raises(FleetError, match="<html>"):
        requests.check(502, {}, b"<html>")


@pytest.mark.parametrize(
    ("model", "inputs", "text"),
    [
        ("m", {"A": [[1], [1, 2]]}, "input 'A' is not an array"),
        ("m", {"A": None}, "input 'A': an element of type NoneType cannot be BYTES"),
        ("m", {"A": np.zeros(1, np.complex64)}, "input 'A': NumPy dtype complex64 has no V2 datatype"),
        ("m", {"A": ["\ud800"]}, "input 'A' is not an array"),
        ("\ud800", {}, "not valid Unicode"),
    ],
)
def test_an_input_that_is_none_is_refused_by_name(model: str, inputs: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        requests.infer(model, inputs, InferOptions())


@pytest.mark.parametrize(
    ("options", "text"),
    [({"label": "\ud800"}, "JSON"), ({"parameters": {"a": {1}}}, "JSON"), ({"outputs": ["\ud800"]}, "JSON")],
)
def test_what_json_cannot_express_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        requests.infer("m", {}, InferOptions(**options))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_proxy_of_the_environment_does_not_stand_before_this_machine(
    fleet: Site, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    worker = await fleet.worker(ANY)
    gateway = await fleet.gateway()
    url = f"http://{host}:{gateway.gateway.port}"

    async with AsyncClient(url) as client:
        result = await client.infer("any", {"IN": np.zeros(2, np.float32)})
    with Client(url) as blocking:
        assert await asyncio.to_thread(blocking.ready)

    assert result.outputs["OUT"].tolist() == [0, 0]
    assert len(worker.ran) == 1


async def test_a_proxy_of_the_environment_stands_before_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")

    async with AsyncClient("http://model.example") as client:
        with pytest.raises(
            Unavailable,
            match=r"cannot be reached: the proxy http://127\.0\.0\.1:9, which .*: connection refused; no_proxy=",
        ):
            await client.infer("any", {"IN": np.zeros(2, np.float32)})
