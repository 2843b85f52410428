"""The clients over gRPC: against real gateways, and against servers that are none."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from penstock.client import AsyncClient, Client, Pending
from penstock.client.exchange import Answered
from penstock.client.requests import InferOptions
from penstock.client.rpc_errors import error_of
from penstock.client.rpc_wire import RpcWire
from protocol.errors import (
    Code,
    CodecError,
    ConfigError,
    DeadlineExceeded,
    FleetError,
    InvalidArgument,
    Unavailable,
    Unsupported,
)
from protocol.proto import message_class
from protocol.tensors import from_array
from tests.gateway.fleet import ADD_SUB, ANY, HALF, TEXT, Site, site, until

WIRE = RpcWire("grpc://h")
X = {"IN": np.arange(3, dtype=np.float32)}
Call = Callable[..., Awaitable[Any]]


@pytest.fixture
async def fleet() -> AsyncIterator[Site]:
    async with site() as made:
        yield made


@pytest.fixture(params=["http async", "http blocking", "grpc async", "grpc blocking"])
async def make(request: pytest.FixtureRequest, fleet: Site) -> AsyncIterator[Callable[..., Awaitable[Call]]]:
    """Makes a gateway, and a client of each kind and protocol; its methods are called by name, and awaited."""
    protocol, kind = request.param.split()
    stack = contextlib.AsyncExitStack()

    async def made(api_key: str = "", key: str = "", **options: Any) -> Call:
        gateway = await fleet.gateway(grpc_port=0, api_key=key)
        port = gateway.gateway.port if protocol == "http" else gateway.gateway.grpc_port
        url = f"{protocol}://127.0.0.1:{port}"
        if kind == "async":
            client = AsyncClient(url, api_key=api_key, **options)
            stack.push_async_callback(client.close)

            async def call(name: str, *arguments: Any, **more: Any) -> Any:
                return await getattr(client, name)(*arguments, **more)

            return call
        blocking = Client(url, api_key=api_key, **options)
        stack.callback(blocking.close)

        async def call_blocking(name: str, *arguments: Any, **more: Any) -> Any:
            return await asyncio.to_thread(getattr(blocking, name), *arguments, **more)

        return call_blocking

    async with stack:
        yield made


async def test_both_protocols_answer_alike(fleet: Site, make: Callable[..., Awaitable[Call]]) -> None:
    for config in (ANY, TEXT, HALF, ADD_SUB):
        await fleet.worker(config, name=config["name"])
    call = await make()

    result = await call(
        "infer",
        "any",
        X,
        label="mine",
        version="1",
        outputs=["OUT"],
        parameters={"a": 1, "b": 0.5, "c": "t", "d": True},
    )
    text = await call("infer", "text", {"IN": np.array(["ä", ""], object)})
    half = await call("infer", "half", {"IN": np.array([0.5, 1], np.float16)})
    rows = {f"INPUT{number}": np.full((2, 16), number + 1, np.float32) for number in (0, 1)}
    two = await call("infer", "add_sub", rows)

    assert (result.model, result.version, result.label) == ("any", "1", "mine")
    assert result.outputs["OUT"].tolist() == [0, 1, 2]
    assert result.datatypes == {"OUT": "FP32"}
    assert result.request_id
    assert result.timing
    assert text.outputs["OUT"].tolist() == ["ä".encode(), b""]
    assert half.outputs["OUT"].dtype == np.float16
    assert (two.outputs["OUTPUT0"][0, 0], two.outputs["OUTPUT1"][1, 15]) == (3, -1)
    assert await call("ready")
    assert [model["name"] for model in await call("models")] == ["add_sub", "any", "half", "text"]
    assert (await call("get", "/v2/models/add_sub"))["inputs"][0] == {
        "name": "INPUT0",
        "datatype": "FP32",
        "shape": [-1, 16],
    }
    assert (await call("get", "/v2/models/any/versions/1/config"))["input"][0]["dims"] == [-1]
    assert (await call("get", "/v2/models/any/stats"))["model_stats"][0]["inference_count"] == 0
    assert (await call("get", "/v2"))["name"] == "penstock"


@pytest.mark.parametrize(
    ("model", "inputs", "code", "text"),
    [
        ("missing", X, Code.NOT_FOUND, "Request for unknown model: 'missing' is not found"),
        ("any", {}, Code.INVALID_ARGUMENT, "expected 1 inputs but got 0"),
        ("any", {"IN": np.zeros(2)}, Code.INVALID_ARGUMENT, "data-type is 'FP64'"),
    ],
)
async def test_errors_are_those_of_http(
    fleet: Site, make: Callable[..., Awaitable[Call]], model: str, inputs: Any, code: Code, text: str
) -> None:
    await fleet.worker(ANY)
    call = await make()

    with pytest.raises(FleetError, match=text) as caught:
        await call("infer", model, inputs)

    assert caught.value.code is code


async def test_a_key_admits(fleet: Site, make: Callable[..., Awaitable[Call]]) -> None:
    await fleet.worker(ANY)
    call = await make(api_key="secret", key="secret")

    assert (await call("infer", "any", X)).outputs["OUT"].tolist() == [0, 1, 2]


async def test_a_wrong_key_does_not(fleet: Site, make: Callable[..., Awaitable[Call]]) -> None:
    await fleet.worker(ANY)
    call = await make(api_key="other", key="secret")

    with pytest.raises(FleetError) as caught:
        await call("infer", "any", X)

    assert caught.value.code is Code.UNAUTHENTICATED


async def test_a_timeout_is_a_deadline(fleet: Site, make: Callable[..., Awaitable[Call]]) -> None:
    worker = await fleet.worker(ANY)
    worker.open.clear()
    call = await make()

    with pytest.raises(FleetError) as caught:
        await call("infer", "any", X, timeout=0.2)

    assert caught.value.code is Code.DEADLINE_EXCEEDED
    worker.open.set()


async def test_a_cancelled_call_is_cancelled_at_the_gateway(fleet: Site) -> None:
    worker = await fleet.worker(ANY)
    worker.open.clear()
    gateway = await fleet.gateway(grpc_port=0)
    async with AsyncClient(f"grpc://127.0.0.1:{gateway.gateway.grpc_port}") as client:
        task = asyncio.create_task(client.infer("any", X))
        await until(
            lambda: gateway.gateway.service.pending > 0 if hasattr(gateway.gateway.service, "pending") else True
        )
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        worker.open.set()
        assert (await client.infer("any", X)).outputs["OUT"].tolist() == [0, 1, 2]


async def test_a_large_tensor_and_many_calls(fleet: Site) -> None:
    await fleet.worker(ANY)
    gateway = await fleet.gateway(grpc_port=0)
    large = np.arange(1_000_000, dtype=np.float32)
    async with AsyncClient(f"grpc://127.0.0.1:{gateway.gateway.grpc_port}") as client:
        assert np.array_equal((await client.infer("any", {"IN": large})).outputs["OUT"], large)
        inputs = ({"IN": np.array([number], np.float32)} for number in range(200))
        values = [
            outcome.unwrap().outputs["OUT"][0] async for outcome in client.infer_many("any", inputs, concurrency=16)
        ]

    assert values == list(range(200))


async def test_what_only_http_has_is_said() -> None:
    with Client("grpc://127.0.0.1:9") as client:
        for call in (
            lambda: client.submit("m", X), lambda: client.result(Pending("/v2/requests/1", "1")),
            lambda: client.cancel(Pending("/v2/requests/1", "1")), lambda: client.get("/v2/requests/1"),
        ):  # fmt: skip
            with pytest.raises(Unsupported, match="http://"):
                call()


async def test_nobody_there_is_unavailable(unused_tcp_port: int) -> None:
    url = f"grpc://127.0.0.1:{unused_tcp_port}"
    with Client(url, retries=1) as client, pytest.raises(Unavailable, match="cannot be reached: connection refused"):
        await asyncio.to_thread(client.infer, "any", X)
    async with AsyncClient(url, retries=1) as waiting:
        assert not await waiting.ready()
        with pytest.raises(Unavailable, match="cannot be reached: connection refused"):
            await waiting.infer("any", X)


@pytest.mark.parametrize("url", ["grpc://", "grpc://h/path", "grpc://h:0", "grpcs://h:99999", "grpc://a b"])
def test_a_bad_url_is_said(url: str) -> None:
    with pytest.raises(InvalidArgument, match="--url"):
        Client(url)


def test_a_closed_client_says_so() -> None:
    client = Client("grpc://127.0.0.1:9")
    client.close()

    with pytest.raises(InvalidArgument, match="closed"):
        client.infer("any", X)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for localhost, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key", "-out", folder / "cert"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder


async def test_tls_trusts_the_given_authority(fleet: Site, certificate: Path) -> None:
    await fleet.worker(ANY)
    gateway = await fleet.gateway(
        grpc_port=0, tls_certificate=str(certificate / "cert"), tls_key=str(certificate / "key")
    )
    url = f"grpcs://localhost:{gateway.gateway.grpc_port}"

    for tls in (
        ssl.create_default_context(cafile=certificate / "cert"),
        grpc.ssl_channel_credentials((certificate / "cert").read_bytes()),
    ):
        async with AsyncClient(url, tls=tls) as client:
            assert (await client.infer("any", X)).outputs["OUT"].tolist() == [0, 1, 2]
    async with AsyncClient(url, retries=0) as client:
        with pytest.raises(Unavailable, match="cannot be reached"):
            await client.infer("any", X)


def test_without_grpcio_the_way_to_it_is_said() -> None:
    code = "import sys; sys.modules['grpc'] = None\nfrom penstock import Client\nClient('http://h')\nClient('grpc://h')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )

    assert f"{ConfigError.__name__}: a client over gRPC needs grpcio: pip install 'penstock[grpc]'" in done.stderr


# --- messages, without a server ---


def test_a_message_has_the_tensors_bytes_behind_it() -> None:
    tensor = from_array("B", np.array([0x3F80], np.uint16), "BF16")
    made = WIRE.infer(
        "m",
        {"A": np.array([[1, 2]], np.int32), "B": tensor},
        InferOptions(idempotency_key="k", timeout=1.5, lane="batch"),
    )
    message: Any = message_class("inference.ModelInferRequest").FromString(made.body)

    assert [(entry.name, entry.datatype, list(entry.shape)) for entry in message.inputs] == [
        ("A", "INT32", [1, 2]),
        ("B", "BF16", [1]),
    ]
    assert list(message.raw_input_contents) == [np.array([1, 2], np.int32).tobytes(), b"\x80\x3f"]
    assert (made.method, made.repeatable) == ("ModelInfer", True)
    assert made.headers == {"Idempotency-Key": "k", "Penstock-Lane": "batch"}


@pytest.mark.parametrize("value", [[1], None, {}, b"x"])
def test_a_parameter_of_another_kind_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgument, match="parameter 'a' must be text, a number or a boolean"):
        WIRE.infer("m", {}, InferOptions(parameters={"a": value}))


@pytest.mark.parametrize(
    "body", [b"\xff", b"\x32\x7f", b"\x08\x01", b"\x32" + b"\xff" * 10, b"\x0a\x01\xff", b"\x32\x01a"]
)
def test_an_answer_of_something_else_is_said_to_be_one(body: bytes) -> None:
    with pytest.raises(CodecError, match="is not a V2 response"):
        WIRE.result(Answered(200, {}, body))


def test_an_answer_without_raw_contents_is_read() -> None:
    message: Any = message_class("inference.ModelInferResponse")(model_name="m")
    entry = message.outputs.add(name="Y", datatype="INT8", shape=[2, 1])
    entry.contents.int_contents.extend([1, -2])

    found = WIRE.result(Answered(200, {}, message.SerializeToString())).outputs["Y"]

    assert (found.dtype, found.tolist()) == (np.int8, [[1], [-2]])


@pytest.mark.parametrize(
    ("code", "details", "headers", "kind"),
    [
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", {}, DeadlineExceeded),
        ("UNAVAILABLE", "Socket closed", {}, Unavailable),
        ("UNAVAILABLE", "Exceeds maximum queue size", {}, FleetError),
        ("INTERNAL", "the model raised", {"penstock-error": "MODEL_FAILED"}, FleetError),
    ],
)
def test_what_a_failed_call_means(code: str, details: str, headers: dict[str, str], kind: type[FleetError]) -> None:
    error = error_of("grpc://h", code, details, headers, 0.5, 100)

    assert isinstance(error, kind)
    assert error.code is (Code(headers["penstock-error"]) if headers else Code[code])


@pytest.mark.parametrize("path", ["/v2/models/stats?per_worker=true", "/v2/models/m?x=1", "/v2/fleet/scaling"])
def test_a_path_that_no_rpc_answers_is_refused_before_it_is_asked(path: str) -> None:
    with (
        Client("grpc://127.0.0.1:1", retries=0) as client,
        pytest.raises(Unsupported, match="ask the gateway's http:// URL"),
    ):
        client.get(path)
