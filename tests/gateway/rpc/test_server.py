"""TLS, keys, deadlines, cancellation, draining, compression, sizes, and what a call carries as metadata."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from gateway.rpc.status import STATUS
from protocol.errors import Code, ConfigError
from protocol.messages import Failure
from tests.gateway.fleet import ANY, TEXT, Site, until
from tests.gateway.rpc.stub import INFER, infer_request, message, stub


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and a server's and a client's certificate signed by it."""
    folder = tmp_path_factory.mktemp("tls")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl(
        "req",
        "-x509",
        *new_key,
        "-days",
        "2",
        "-subj",
        "/CN=authority",
        "-keyout",
        f"{folder}/ca.key",
        "-out",
        f"{folder}/ca.pem",
    )
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    for name in ("server", "client"):
        openssl(
            "req", *new_key, "-subj", f"/CN={name}", "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.csr"
        )
        openssl(
            "x509", "-req", "-in", f"{folder}/{name}.csr", "-CA", f"{folder}/ca.pem", "-CAkey", f"{folder}/ca.key", "-days", "2",
            "-CAcreateserial", "-extfile", f"{folder}/names", "-out", f"{folder}/{name}.pem",
        )  # fmt: skip
    return folder


async def test_tls_and_client_certificates(fleet: Site, tls: Path) -> None:
    await fleet.worker()
    files = {"tls_certificate": f"{tls}/server.pem", "tls_key": f"{tls}/server.key"}
    plain = await fleet.gateway(grpc_port=0, **files)
    mutual = await fleet.gateway(grpc_port=0, **files, tls_client_ca=f"{tls}/ca.pem")
    roots = (tls / "ca.pem").read_bytes()
    anonymous = grpc.ssl_channel_credentials(roots)
    known = grpc.ssl_channel_credentials(roots, (tls / "client.key").read_bytes(), (tls / "client.pem").read_bytes())
    async with stub(plain, anonymous) as client:
        assert (await client.infer()).model_name == "add_sub"
    async with stub(mutual, known) as client:
        assert (await client.infer()).model_name == "add_sub"
    async with stub(mutual, anonymous) as client:
        assert (await client.refused(infer_request()))[0] == "UNAVAILABLE"
    async with stub(plain) as client:
        assert (await client.refused(infer_request()))[0] == "UNAVAILABLE"


async def test_wrong_files_and_taken_ports_are_config_errors(fleet: Site, tls: Path) -> None:
    taken = await fleet.gateway(grpc_port=0)
    with pytest.raises(ConfigError, match="cannot listen on"):
        await fleet.gateway(grpc_port=taken.gateway.grpc_port)
    files = {"tls_certificate": f"{tls}/server.pem", "tls_key": f"{tls}/server.key"}
    with pytest.raises(ConfigError, match="client CA"):
        await fleet.gateway(grpc_port=0, **files, tls_client_ca=f"{tls}/nope.pem")


async def test_the_api_key(fleet: Site) -> None:
    await fleet.worker()
    running = await fleet.gateway(grpc_port=0, api_key="secret")
    async with stub(running) as client:
        for metadata in ((), (("x-api-key", "wrong"),), (("authorization", "Basic secret"),)):
            status, text = await client.refused(infer_request(), metadata=metadata)
            assert (status, "API key" in text) == ("UNAUTHENTICATED", True)
        for metadata in ((("x-api-key", "secret"),), (("authorization", "Bearer secret"),)):
            assert (await client.infer(metadata=metadata)).model_name == "add_sub"
        assert (await client.refused(method="ServerMetadata"))[0] == "UNAUTHENTICATED"
        assert (await client.call("ServerLive")).live
        assert await client.raw(b"", "/grpc.health.v1.Health/Check")


async def test_a_caller_without_the_key_is_refused_before_its_message_is_read(fleet: Site) -> None:
    await fleet.worker()
    running = await fleet.gateway(grpc_port=0, api_key="secret")
    async with stub(running) as client:
        call = client.channel.stream_unary(INFER)(timeout=10)  # sends no message
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_deadline_reaches_the_queue_and_cancels(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    running = await fleet.gateway(grpc_port=0)
    async with stub(running) as client:
        status, _ = await client.refused(infer_request(), timeout=0.3)
        assert status == "DEADLINE_EXCEEDED"
        await until(lambda: len(running.gateway.service.completion.pending) == 0)
        await until(lambda: len(worker.cancelled) == 1)
        worker.open.set()
        assert (await client.infer()).model_name == "add_sub"
    assert len(worker.ran) == 1


async def test_a_cancelled_call_is_cancelled(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    running = await fleet.gateway(grpc_port=0)
    async with stub(running) as client:
        call = client.channel.unary_unary(INFER)(infer_request().SerializeToString())
        await until(lambda: len(running.gateway.service.completion.pending) == 1)
        call.cancel()
        await until(lambda: len(worker.cancelled) == 1)
    assert running.gateway.service.admission.calls == 0
    assert running.gateway.service.budgets.whole.used == 0 or running.gateway.service.admission.size == 0


async def test_draining_answers_what_runs_and_refuses_the_rest(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    running = await fleet.gateway(grpc_port=0)
    async with stub(running) as client:
        asking = asyncio.ensure_future(client.infer())
        await until(lambda: len(running.gateway.service.completion.pending) == 1)
        draining = asyncio.ensure_future(running.gateway.drain())
        await until(lambda: running.gateway.service.draining)
        status, text = await client.refused(infer_request())
        assert (status, text.startswith("GRPC server is shutting down")) == ("UNAVAILABLE", True)
        assert not (await client.call("ServerReady")).ready
        worker.open.set()
        assert (await asking).model_name == "add_sub"
        await draining


async def test_compression_both_ways(fleet: Site) -> None:
    await fleet.worker(ANY)
    running = await fleet.gateway(grpc_port=0)
    zeros = np.zeros(100_000, np.float32).tobytes()
    request = infer_request("any", (zeros,), ("IN",), shape=(100_000,))
    async with stub(running) as client:
        for compression, asked in ((grpc.Compression.Gzip, "gzip"), (grpc.Compression.Deflate, "deflate")):
            answer = await client.infer(request, compression=compression, metadata=(("penstock-compression", asked),))
            assert answer.raw_output_contents[0] == zeros
        status, text = await client.refused(request, metadata=(("penstock-compression", "br"),))
        assert (status, "gzip, deflate or identity" in text) == ("INVALID_ARGUMENT", True)


async def test_sizes(fleet: Site) -> None:
    await fleet.worker(ANY)
    running = await fleet.gateway(grpc_port=0, max_body_bytes=100_000)
    async with stub(running) as client:
        for size in (25_100, 100_000):  # ours, and gRPC's own
            request = infer_request("any", (bytes(4 * size),), ("IN",), shape=(size,))
            assert (await client.refused(request))[0] == "RESOURCE_EXHAUSTED"
        assert (await client.infer(infer_request("any", (bytes(4),), ("IN",), shape=(1,)))).model_name == "any"


async def test_a_full_queue_is_unavailable_as_in_triton(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    running = await fleet.gateway(grpc_port=0, max_queued_calls=1)
    async with stub(running) as client:
        asking = asyncio.ensure_future(client.infer())
        await until(lambda: len(running.gateway.service.completion.pending) == 1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.infer()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "Exceeds maximum queue size" in (caught.value.details() or "")
        trailers = dict(caught.value.trailing_metadata())
        assert (trailers["penstock-error"], int(trailers["retry-after"]) >= 1) == ("EXHAUSTED", True)
        worker.open.set()
        await asking


async def test_metadata_of_calls_and_answers(fleet: Site) -> None:
    worker = await fleet.worker()
    running = await fleet.gateway(grpc_port=0)
    trace = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    async with stub(running) as client:
        call = client.channel.unary_unary(INFER)(
            infer_request().SerializeToString(), metadata=(("traceparent", trace),)
        )
        await call
        trailers = dict(await call.trailing_metadata())
        assert trailers["penstock-request-id"] == worker.ran[0]
        assert "compute_start=" in trailers["penstock-timing"]
        assert worker.requests[0].traceparent == trace
        for name, value in (("penstock-lane", "fast"), ("penstock-timeout-ms", "5")):
            assert (await client.refused(infer_request(), metadata=((name, value),)))[0] == "INVALID_ARGUMENT"


async def test_an_idempotency_key_runs_once(fleet: Site) -> None:
    worker = await fleet.worker()
    running = await fleet.gateway(grpc_port=0)
    key = (("idempotency-key", "k"),)
    async with stub(running) as client:
        first, second = await asyncio.gather(client.infer(metadata=key), client.infer(metadata=key))
        assert first == second
        assert len(worker.ran) == 1
        other = infer_request(raws=(bytes(64), bytes(64)))
        assert (await client.refused(other, metadata=key))[0] == "FAILED_PRECONDITION"


async def test_a_models_failure_and_its_code(fleet: Site) -> None:
    worker = await fleet.worker()
    running = await fleet.gateway(grpc_port=0)
    async with stub(running) as client:
        for code in Code:
            worker.fail = Failure(code, "said so\n" + "é" * 5000)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.infer()
            assert caught.value.code().value[0] == STATUS[code]
            assert (caught.value.details() or "").startswith("said so")
            assert dict(caught.value.trailing_metadata())["penstock-error"] == code.value


async def test_classification_and_shared_memory(fleet: Site, tmp_path: Path) -> None:
    await fleet.worker(ANY)
    running = await fleet.gateway(grpc_port=0, allow_shared_memory=True)
    key = f"penstock_test_{tmp_path.name}_{id(tmp_path)}"
    file = Path("/dev/shm") / key
    values = np.array([1.0, 4.0, 2.0], np.float32)
    file.write_bytes(values.tobytes() + bytes(12))
    try:
        async with stub(running) as client:
            register = message("SystemSharedMemoryRegisterRequest", name="r", key=f"/{key}", byte_size=24)
            await client.call("SystemSharedMemoryRegister", register)
            assert (await client.call("SystemSharedMemoryStatus")).regions["r"].byte_size == 24
            request: Any = infer_request("any", (), ("IN",), shape=(3,))
            for name, number in (("shared_memory_byte_size", 12), ("shared_memory_offset", 0)):
                request.inputs[0].parameters[name].int64_param = number
            request.inputs[0].parameters["shared_memory_region"].string_param = "r"
            assert (await client.infer(request)).raw_output_contents[0] == values.tobytes()
            output = request.outputs.add(name="OUT")
            output.parameters["shared_memory_region"].string_param = "r"
            output.parameters["shared_memory_byte_size"].int64_param = 12
            output.parameters["shared_memory_offset"].int64_param = 12
            assert list((await client.infer(request)).raw_output_contents) == [b""]
            assert file.read_bytes()[12:] == values.tobytes()
            plain = infer_request("any", (values.tobytes(),), ("IN",), shape=(3,))
            plain.outputs.add(name="OUT").parameters["classification"].int64_param = 2
            (raw,) = (await client.infer(plain)).raw_output_contents
            assert b"4.000000:1" in raw
            request.inputs[0].parameters["shared_memory_byte_size"].int64_param = 99
            assert (await client.refused(request))[0] == "INVALID_ARGUMENT"
            await client.call("SystemSharedMemoryUnregister")
            assert (await client.refused(request))[0] == "NOT_FOUND"
    finally:
        file.unlink()


async def test_many_strings_are_checked_in_a_thread(fleet: Site) -> None:
    await fleet.worker(TEXT)
    running = await fleet.gateway(grpc_port=0)
    raw = b"\1\0\0\0a\2\0\0\0bc" * 3000
    async with stub(running) as client:
        answer = await client.infer(infer_request("text", (raw,), ("IN",), "BYTES", (6000,)))
    assert answer.raw_output_contents[0] == raw
    assert running.gateway.service.admission.size == 0
