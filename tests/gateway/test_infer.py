"""The infer route, from socket to worker and back."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import Any

import numpy as np
import orjson
import pytest
import structlog.testing

from protocol.codec import MAX_NUMBER, decode_request, encode_request
from protocol.errors import Code
from protocol.messages import Failure, ModelState
from protocol.tensors import pack_bytes
from tests.gateway.fleet import ANY, HALF, TEXT, Site, Worker, add_sub, floats, until


def binary_request(*, outputs: list[dict[str, Any]] | None = None, **parameters: Any) -> tuple[bytes, dict[str, str]]:
    """Two raw tensors after their JSON, and the header with the length of the JSON."""
    a, b = np.arange(16, dtype=np.float32), np.ones(16, dtype=np.float32)
    inputs = [
        {"name": name, "datatype": "FP32", "shape": [1, 16], "parameters": {"binary_data_size": 64}}
        for name in ("INPUT0", "INPUT1")
    ]
    head: dict[str, Any] = {"inputs": inputs}
    if outputs is not None:
        head["outputs"] = outputs
    if parameters:
        head["parameters"] = parameters
    raw = orjson.dumps(head)
    return raw + a.tobytes() + b.tobytes(), {"inference-header-content-length": str(len(raw))}


async def test_json_in_json_out(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()

    answer = await gateway.infer(add_sub(1, 2, id="my label"))

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.headers["penstock-request-id"]) == 32
    assert answer.headers["date"]
    assert "reason=full" in answer.headers["penstock-timing"]
    body = answer.json()
    assert (body["model_name"], body["model_version"], body["id"]) == ("add_sub", "1", "my label")
    assert body["outputs"][0]["data"] == [3.0 + 2 * i for i in range(16)]
    assert body["outputs"][1]["data"] == [-1.0] * 16
    assert body["outputs"][0]["shape"] == [1, 16]


async def test_stamps_are_in_order(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()

    text = (await gateway.infer()).headers["penstock-timing"]

    fields = dict(part.split("=") for part in text.split(", "))
    stages = [int(fields[name]) for name in ("publish", "fetch", "compute_start", "emit", "wake")]
    assert stages == sorted(stages)
    assert stages[0] >= 0
    assert (fields["rows"], fields["requests"], fields["attempt"]) == ("1", "1", "1")


async def test_the_named_version_is_asked_and_the_highest_without_one(fleet: Site) -> None:
    first, second = await fleet.worker(version="2"), await fleet.worker(version="10", name="w2")
    gateway = await fleet.gateway()

    assert (await gateway.infer()).json()["model_version"] == "10"
    named = await gateway.post("/v2/models/add_sub/versions/2/infer", content=orjson.dumps(add_sub()))
    assert named.json()["model_version"] == "2"
    assert (len(first.ran), len(second.ran)) == (1, 1)


async def test_only_the_requested_outputs_come_back(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()

    answer = await gateway.infer(add_sub(outputs=[{"name": "OUTPUT1"}]))

    assert [output["name"] for output in answer.json()["outputs"]] == ["OUTPUT1"]


@pytest.mark.parametrize(
    ("outputs", "parameters", "raw"),
    [
        (None, {}, []),
        (None, {"binary_data_output": True}, ["OUTPUT0", "OUTPUT1"]),
        ([{"name": "OUTPUT0"}, {"name": "OUTPUT1", "parameters": {"binary_data": True}}], {}, ["OUTPUT1"]),
        ([{"name": "OUTPUT0"}], {"binary_data_output": True}, []),
    ],
)
async def test_binary_tensors_and_who_chooses_them(
    fleet: Site, outputs: list[dict[str, Any]] | None, parameters: dict[str, Any], raw: list[str]
) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    content, headers = binary_request(outputs=outputs, **parameters)

    answer = await gateway.post("/v2/models/add_sub/infer", content=content, headers=headers)

    assert answer.status_code == 200
    split = int(answer.headers.get("inference-header-content-length", len(answer.content)))
    assert (answer.headers["content-type"] == "application/octet-stream") == bool(raw)
    head = orjson.loads(answer.content[:split])
    assert [output["name"] for output in head["outputs"] if "data" not in output] == raw
    assert all(output["parameters"] == {"binary_data_size": 64} for output in head["outputs"] if "data" not in output)
    assert len(answer.content) - split == 64 * len(raw)
    if raw == ["OUTPUT0", "OUTPUT1"]:
        sums = np.frombuffer(answer.content[split:], np.float32)
        assert sums.tolist() == [*(i + 1.0 for i in range(16)), *(i - 1.0 for i in range(16))]


async def test_a_body_of_nothing_but_bytes(fleet: Site) -> None:
    await fleet.worker(ANY)
    gateway = await fleet.gateway()
    data = np.arange(5, dtype=np.float32).tobytes()

    answer = await gateway.post("/v2/models/any/infer", content=data, headers={"inference-header-content-length": "0"})

    split = int(answer.headers["inference-header-content-length"])
    assert orjson.loads(answer.content[:split])["outputs"][0]["shape"] == [5]
    assert answer.content[split:] == data


async def test_text_and_half_precision(fleet: Site) -> None:
    await fleet.worker(TEXT)
    await fleet.worker(HALF, name="w2")
    gateway = await fleet.gateway()
    words = ["täxt", "", "\0"]
    text = {"inputs": [{"name": "IN", "datatype": "BYTES", "shape": [3], "data": words}]}
    assert (await gateway.infer(text, "text")).json()["outputs"][0]["data"] == words
    head = orjson.dumps(
        {"inputs": [{"name": "IN", "datatype": "FP16", "shape": [2], "parameters": {"binary_data_size": 4}}]}
    )

    refused = await gateway.infer(head + b"abcd", "half", inference_header_content_length=str(len(head)))

    assert refused.status_code == 400
    assert "sending FP16 data via JSON is not supported" in refused.json()["error"]


async def test_bytes_that_are_no_text_are_refused_in_json_and_sent_raw(fleet: Site) -> None:
    await fleet.worker(TEXT)
    gateway = await fleet.gateway()
    tensor = pack_bytes([b"\xff\xfe"])
    for parameters, status in (({}, 400), ({"binary_data_output": True}, 200)):
        entry = {"name": "IN", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(tensor)}}
        head = orjson.dumps({"inputs": [entry], "parameters": parameters})

        answer = await gateway.infer(head + tensor, "text", inference_header_content_length=str(len(head)))

        assert answer.status_code == status
        assert answer.content.endswith(tensor) == (status == 200)


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)]
)
async def test_compressed_requests(fleet: Site, encoding: str, pack: Any) -> None:
    await fleet.worker(ANY)
    gateway = await fleet.gateway()
    for count in (10, 40_000):
        body = orjson.dumps(floats(count))

        answer = await gateway.infer(pack(body), "any", content_encoding=encoding)

        assert answer.status_code == 200, answer.text
        assert answer.json()["outputs"][0]["shape"] == [count]


async def test_compressed_answers_are_large_and_asked_for(fleet: Site) -> None:
    await fleet.worker(ANY)
    gateway = await fleet.gateway()
    for count, accept, encoding in (
        (2, "gzip", None),
        (2000, "gzip", "gzip"),
        (2000, "deflate;q=0.9, gzip;q=0.1", "deflate"),
        (2000, "br", None),
        (60_000, "gzip", "gzip"),
    ):
        answer = await gateway.infer(floats(count), "any", accept_encoding=accept)

        assert answer.headers.get("content-encoding") == encoding
        assert answer.json()["outputs"][0]["data"][:2] == [0.0, 1.0]


async def test_scheduling_parameters_reach_the_scheduler_and_others_the_model(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway()
    parameters = {"priority": 3, "timeout": 2_500_000, "sequence_id": 0, "sequence_start": True, "mine": "x", "n": 7}

    assert (await gateway.infer(add_sub(parameters=parameters))).status_code == 200

    (request,) = worker.requests
    assert (request.priority, request.timeout) == (3, 2.5)
    assert request.parameters == {"mine": "x", "n": 7}


@pytest.mark.parametrize("name", ["priority", "timeout"])
async def test_the_largest_number_that_a_caller_may_state_is_one_that_a_worker_takes(fleet: Site, name: str) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway()
    for number in (MAX_NUMBER, MAX_NUMBER - 1):
        assert (await gateway.infer(add_sub(parameters={name: number}))).status_code == 200

    value, headers = encode_request(worker.requests[-1])
    again = decode_request(value, headers, model="add_sub", version="1", default_id="", timestamp=0.0)
    assert getattr(again, name) == getattr(worker.requests[-1], name) > 0


async def test_every_request_carries_its_deadline_and_trace(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway(default_timeout=30.0)
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    first = await gateway.infer()
    await gateway.infer(traceparent=given, penstock_timeout_ms="5000")

    made, passed = worker.requests
    assert made.deadline is not None
    assert made.deadline - made.accepted == pytest.approx(30.0)
    assert passed.deadline is not None
    assert passed.deadline - passed.accepted == pytest.approx(5.0)
    assert made.traceparent.split("-")[1] == first.headers["penstock-request-id"] == made.id
    assert passed.traceparent == given
    assert made.reply_to == gateway.gateway.service.channel


@pytest.mark.parametrize(
    ("code", "status", "retry"),
    [
        (Code.MODEL_FAILED, 500, None),
        (Code.INVALID_ARGUMENT, 400, None),
        (Code.EXHAUSTED, 429, "1"),
        (Code.UNAVAILABLE, 503, "1"),
        (Code.DEADLINE_EXCEEDED, 504, None),
        (Code.CANCELLED, 499, None),
        (Code.UNSUPPORTED, 501, None),
        (Code.INTERNAL, 500, None),
    ],
)
async def test_a_workers_failure_is_the_callers_error(fleet: Site, code: Code, status: int, retry: str | None) -> None:
    worker = await fleet.worker()
    worker.fail = Failure(code, "it said why")
    gateway = await fleet.gateway()

    answer = await gateway.infer()

    assert answer.status_code == status
    assert answer.json() == {"error": "it said why"}
    assert answer.headers.get("retry-after") == retry
    assert len(answer.headers["penstock-request-id"]) == 32
    assert "wake=" in answer.headers["penstock-timing"]
    assert gateway.metric(f'penstock_gateway_requests_total{{code="{code}",model="add_sub",version="1"}}') == 1


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "text"),
    [
        ("nope", add_sub(), {}, 404, "Request for unknown model: 'nope' is not found"),
        ("add_sub/versions/9", add_sub(), {}, 404, "Request for unknown model: 'add_sub' version 9 is not found"),
        ("add_sub", b"{", {}, 400, "failed to parse the request JSON buffer"),
        ("add_sub", b"", {}, 400, "failed to parse the request JSON buffer"),
        ("add_sub", b"[]", {}, 400, "must be a JSON object"),
        ("add_sub", {"inputs": []}, {}, 400, "expected 2 inputs but got 0 inputs"),
        ("add_sub", {"inputs": add_sub()["inputs"][:1]}, {}, 400, "expected 2 inputs but got 1 inputs for model 'add_sub'"),
        ("add_sub", {**add_sub(), "id": "L"}, {"penstock-timeout-ms": "0"}, 400, "Penstock-Timeout-Ms"),
        ("add_sub", {"inputs": add_sub()["inputs"][:1], "id": "L"}, {}, 400, "[request id: L] expected 2 inputs"),
        ("add_sub", add_sub(rows=9), {}, 400, "inference request batch-size must be <= 8 for 'add_sub'"),
        ("add_sub", add_sub(outputs=[{"name": "X"}]), {}, 400, "unexpected inference output 'X'"),
        ("add_sub", add_sub(parameters={"triton_x": 1}), {}, 400, "reserved for Triton"),
        ("add_sub", add_sub(parameters={"priority": -1}), {}, 400, "parameter 'priority' must be an unsigned integer"),
        ("add_sub", add_sub(parameters={"timeout": "1"}), {}, 400, "parameter 'timeout' must be an unsigned integer"),
        ("add_sub", add_sub(parameters={"timeout": MAX_NUMBER + 1}), {}, 400, f"unsigned integer of at most {MAX_NUMBER}"),
        ("add_sub", add_sub(parameters={"priority": 10**18}), {}, 400, f"unsigned integer of at most {MAX_NUMBER}"),
        ("add_sub", add_sub(), {"penstock-timeout-ms": "soon"}, 400, "Penstock-Timeout-Ms must be a positive number"),
        ("add_sub", add_sub(), {"penstock-timeout-ms": "99999999"}, 400, "at most 3600000 are allowed"),
        ("add_sub", add_sub(), {"inference-header-content-length": "x"}, 400, "Inference-Header-Content-Length"),
        ("add_sub", add_sub(), {"inference-header-content-length": "99999"}, 400, "inference header size should be in range"),
        ("add_sub", add_sub(), {"content-encoding": "br"}, 501, "Unsupported compression type 'br'"),
        ("add_sub", add_sub(), {"content-encoding": "gzip"}, 400, "the request body is not gzip"),
        ("add_sub", add_sub(outputs=[{"name": "OUTPUT0", "parameters": {"classification": -1}}]), {}, 400, "classification"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_said_before_anything_is_published(
    fleet: Site, path: str, body: Any, headers: dict[str, str], status: int, text: str
) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway()
    content = body if isinstance(body, bytes) else orjson.dumps(body)

    answer = await gateway.post(f"/v2/models/{path}/infer", content=content, headers=headers)

    assert answer.status_code == status
    assert text in answer.json()["error"]
    assert len(answer.headers["penstock-request-id"]) == 32
    assert ("accept-encoding" in answer.headers) == ("Unsupported compression" in text)
    assert not worker.ran
    assert gateway.metric("penstock_gateway_inflight") == 0


async def test_a_deadline_is_504_and_cancels_what_is_queued(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway()

    answer = await gateway.infer(penstock_timeout_ms="30")

    assert answer.status_code == 504
    assert "no answer within 30 ms" in answer.json()["error"]
    assert answer.headers["penstock-request-id"] in worker.cancelled
    assert gateway.metric("penstock_gateway_inflight") == 0
    worker.open.set()
    assert (await gateway.infer()).status_code == 200
    assert answer.headers["penstock-request-id"] not in worker.ran


async def test_a_full_queue_is_429_with_retry_after(fleet: Site) -> None:
    worker = await fleet.worker()
    worker.open.clear()
    gateway = await fleet.gateway(max_queued_calls=2)
    waiting = [asyncio.ensure_future(gateway.infer()) for _ in range(2)]
    pending = gateway.gateway.service.completion.pending
    async with asyncio.timeout(5):
        while len(pending) < 2:
            await gateway.get("/v2/health/live")

    answer = await gateway.infer()

    assert answer.status_code == 429
    assert "Exceeds maximum queue size" in answer.json()["error"]
    assert int(answer.headers["retry-after"]) >= 1
    assert gateway.metric('penstock_gateway_rejections_total{code="EXHAUSTED"}') == 1
    worker.open.set()
    assert [done.status_code for done in await asyncio.gather(*waiting)] == [200, 200]


async def test_a_broker_that_takes_nothing_is_503(fleet: Site) -> None:
    await fleet.worker()
    transport = await fleet.transport()
    gateway = await fleet.gateway(transport)
    await transport.bus.close()

    answer = await gateway.infer()

    assert answer.status_code == 503
    assert "the request was not accepted" in answer.json()["error"]
    assert answer.headers["retry-after"] == "1"
    assert gateway.metric("penstock_gateway_inflight") == 0


async def test_a_known_model_without_workers_queues_or_is_refused(fleet: Site) -> None:
    worker = Worker(await fleet.transport(), dict(ANY))
    await worker.announce()
    queueing, refusing = await fleet.gateway(), await fleet.gateway(no_worker_policy="reject")

    queued = await queueing.infer(floats(2), "any", penstock_timeout_ms="20")
    refused = await refusing.infer(floats(2), "any")

    assert queued.status_code == 504
    assert refused.status_code == 503
    assert "no worker serves model 'any'" in refused.json()["error"]


async def test_an_unloaded_version_is_refused_at_once(fleet: Site) -> None:
    worker = await fleet.worker()
    gateway = await fleet.gateway()
    assert (await gateway.infer()).status_code == 200
    await worker.announce(ModelState.UNAVAILABLE, "unloaded")

    answer = await gateway.post("/v2/models/add_sub/versions/1/infer", content=orjson.dumps(add_sub()))

    assert answer.status_code == 503
    assert "is not at ready state: unloaded" in answer.json()["error"]


async def test_at_debug_every_answer_is_a_line_with_id_and_trace(fleet: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "gateway.rest")
    await fleet.worker()
    gateway = await fleet.gateway()
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    with structlog.testing.capture_logs() as lines:
        served = await gateway.infer(traceparent=trace)
        refused = await gateway.infer(model="nope")

    first, second = [line for line in lines if line["event"] == "answered"]
    assert (first["request_id"], first["traceparent"], first["status"]) == (
        served.headers["penstock-request-id"],
        trace,
        200,
    )
    assert first["ms"] > 0
    assert (second["request_id"], second["model"], second["status"]) == (
        refused.headers["penstock-request-id"],
        "nope",
        404,
    )
    assert second["request_id"] in second["traceparent"]


async def test_a_model_that_is_stuck_does_not_refuse_the_callers_of_another(fleet: Site) -> None:
    stuck, well = await fleet.worker(), await fleet.worker(ANY, name="w2")
    stuck.open.clear()
    gateway = await fleet.gateway(max_queued_calls=16)
    pending = gateway.gateway.service.completion.pending
    waiting = [asyncio.ensure_future(gateway.infer()) for _ in range(16)]
    await until(lambda: len(pending) == 12 and sum(call.done() for call in waiting) == 4)

    others = [(await gateway.infer(floats(2), "any")).status_code for _ in range(20)]

    assert others == [200] * 20
    stuck.open.set()
    assert sorted(done.status_code for done in await asyncio.gather(*waiting)) == [200] * 12 + [429] * 4
    assert len(well.ran) == 20
