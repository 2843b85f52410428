"""Large JSON off the event loop."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator

import numpy as np
import orjson
import pytest

from gateway.admission.budget import Budget
from gateway.rest.json_pool import JsonPool
from protocol import v2
from protocol.codec import encode_reply
from protocol.errors import CodecError, FleetError, Unavailable
from protocol.messages import InferReply
from protocol.tensors import MANY, Tensor, from_array, pack_bytes
from tests.gateway.fleet import ANY, TEXT, Site, add_sub, floats, until
from tests.gateway.turns import turns
from tests.walks import walks


@pytest.fixture
async def process() -> AsyncIterator[JsonPool]:
    made = JsonPool(Budget(1 << 30), 1, time.monotonic)
    yield made
    await made.close()


async def test_it_reads_what_the_loop_would(process: JsonPool) -> None:
    body = add_sub(
        id="L",
        parameters={"x": 1, "binary_data_output": True},
        outputs=[{"name": "O", "parameters": {"binary_data": True}}],
    )
    raw = orjson.dumps(body)

    here, there = v2.parse_body(raw, None), await process.parse(raw, None, math.inf)

    assert (there.id, there.outputs, there.parameters, there.binary_default) == (
        here.id, here.outputs, here.parameters, here.binary_default,
    )  # fmt: skip
    assert [(t.name, t.datatype, t.shape, bytes(t.data)) for t in there.inputs] == [
        (t.name, t.datatype, t.shape, bytes(t.data)) for t in here.inputs
    ]


async def test_it_writes_what_the_loop_would(process: JsonPool) -> None:
    reply = InferReply("m", "1", "L", (from_array("A", np.arange(4.0)), from_array("B", np.zeros(2, np.int32))))

    for binary in (False, True, frozenset({"B"})):
        body = await process.render(reply, binary, math.inf)
        raw = b"".join(body.parts)
        head = orjson.loads(raw[: body.header_length])
        assert [("data" in output) for output in head["outputs"]] == [binary is not True, binary is False]


async def test_errors_come_back_as_they_are(process: JsonPool) -> None:
    with pytest.raises(FleetError) as caught:
        await process.parse(b"{", None, math.inf)
    assert caught.value.code is CodecError.code
    with pytest.raises(FleetError) as caught:
        await process.parse(orjson.dumps(add_sub(inputs={})), None, math.inf)
    assert caught.value.message == "'inputs' must be a list of tensors"
    assert (await process.parse(orjson.dumps(add_sub()), None, math.inf)).inputs


async def test_a_process_that_dies_fails_its_request_and_is_replaced(process: JsonPool) -> None:
    await process.parse(orjson.dumps(add_sub()), None, math.inf)
    child = process.processes[0]._process
    assert child is not None
    asked = asyncio.ensure_future(process.parse(orjson.dumps(floats(1_000_000)), None, math.inf))
    await turns(3)
    child.kill()
    with pytest.raises(Unavailable):
        await asked

    assert (await process.parse(orjson.dumps(add_sub()), None, math.inf)).inputs


async def test_it_ends_with_its_standard_input(process: JsonPool) -> None:
    await process.parse(orjson.dumps(add_sub()), None, math.inf)
    child = process.processes[0]._process
    assert child is not None
    assert child.stdin is not None
    child.stdin.close()

    assert await asyncio.wait_for(child.wait(), 10) == 0


async def test_a_cancelled_question_does_not_spoil_the_next(process: JsonPool) -> None:
    large = asyncio.ensure_future(process.parse(orjson.dumps(floats(300_000)), None, math.inf))
    await asyncio.wait([large], timeout=0.05)
    large.cancel()
    await asyncio.wait([large])

    assert (await process.parse(orjson.dumps(add_sub()), None, math.inf)).inputs


async def test_json_above_a_megabyte_does_not_stop_the_loop(fleet: Site) -> None:
    await fleet.worker(ANY)
    gateway = await fleet.gateway()
    numbers = np.random.default_rng(1).random(700_000).tolist()
    body = orjson.dumps({"inputs": [{"name": "IN", "datatype": "FP32", "shape": [700_000], "data": numbers}]})
    assert len(body) > 12_000_000
    await gateway.infer(body, "any")  # starts the process
    started = time.process_time()
    v2.parse_body(body, None)
    alone = time.process_time() - started
    longest, last = 0.0, time.thread_time()

    def beat() -> None:
        nonlocal longest, last
        now = time.thread_time()
        longest, last = max(longest, now - last), now

    ticking = asyncio.ensure_future(_every_turn(beat))
    answer = await gateway.infer(body, "any")
    ticking.cancel()

    assert answer.status_code == 200
    assert len(answer.content) > 6_000_000
    assert longest < alone / 2, "in CPU time of the loop's thread, so that a busy machine does not matter"


async def _every_turn(beat: object) -> None:
    assert callable(beat)
    while True:
        beat()
        await turns(1)


async def test_large_bodies_run_like_small_ones(fleet: Site) -> None:
    worker = await fleet.worker(ANY)
    gateway = await fleet.gateway(json_offload_bytes=1000)
    for headers in ({}, {"idempotency_key": "k"}, {"content_encoding": "identity"}):
        answer = await gateway.infer(floats(500, id="L"), "any", **headers)
        assert answer.status_code == 200
        assert answer.json()["id"] == "L"
        assert answer.json()["outputs"][0]["data"] == [float(n) for n in range(500)]
    refused = await gateway.infer(b"{" + b" " * 2000, "any")
    assert refused.status_code == 400
    wrong = await gateway.infer(floats(500, outputs=[{"name": "X"}]), "any")
    assert "unexpected inference output 'X'" in wrong.json()["error"]
    assert len(worker.ran) == 3
    assert os.getpid() != gateway.gateway._http._frontend.json.processes[-1].pid


async def test_a_gateway_does_not_look_at_many_strings_on_its_loop(fleet: Site) -> None:
    count = MANY + 1
    strings = pack_bytes([b"", b"x"] * (count // 2) + [b"last"])
    packed = {"name": "IN", "datatype": "BYTES", "shape": [count], "parameters": {"binary_data_size": len(strings)}}
    head = orjson.dumps({"inputs": [packed], "parameters": {"binary_data_output": True}})
    text = {"name": "IN", "datatype": "BYTES", "shape": [count], "data": ["", "x"] * (count // 2) + ["last"]}
    worker = await fleet.worker(TEXT)
    gateway = await fleet.gateway()
    worker.open.clear()
    with walks() as seen:
        calls = [
            asyncio.ensure_future(
                gateway.infer(head + strings, "text", inference_header_content_length=str(len(head)))
            ),
            asyncio.ensure_future(gateway.infer({"inputs": [text]}, "text", idempotency_key="k")),
            asyncio.ensure_future(gateway.infer({"inputs": [text]}, "text")),
        ]
        await until(lambda: len(gateway.gateway.service.completion.pending) == 3)
        assert seen == []
    worker.open.set()
    binary, *others = await asyncio.gather(*calls)

    assert binary.content[int(binary.headers["inference-header-content-length"]) :] == strings
    assert [each.json()["outputs"][0]["data"] for each in others] == [text["data"]] * 2
    assert gateway.gateway._http._frontend.json.processes[-1].pid


async def test_an_answer_of_many_strings_is_not_looked_at_on_the_loop(fleet: Site) -> None:
    count = 2**15
    worker = await fleet.worker(TEXT)
    gateway = await fleet.gateway()
    text = {"name": "IN", "datatype": "BYTES", "shape": [count], "data": [""] * count}
    worker.open.clear()
    call = asyncio.ensure_future(gateway.infer({"inputs": [text]}, "text"))
    await until(lambda: len(gateway.gateway.service.completion.pending) == 1)
    service = gateway.gateway.service
    (waiting,) = service.completion.pending
    reply = InferReply("text", "1", "", (Tensor("OUT", "BYTES", (count,), bytes(4 * count)),))
    with walks() as seen:
        service.completion.settle(waiting, encode_reply(reply))
        answer = await call
        assert seen == []

    assert answer.json()["outputs"][0]["data"] == [""] * count
