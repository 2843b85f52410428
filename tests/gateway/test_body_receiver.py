"""Large bodies go straight into their memory; what follows them on the connection is untouched."""

from __future__ import annotations

import asyncio

import numpy as np
import orjson
import pytest

from gateway.rest.body_receiver import BodyReceiver
from tests.gateway.fleet import ANY, Running, Site, floats, raw_request, read_response, until

VALUES = np.arange(500_000, dtype=np.float32)
PATH = "/v2/models/any/infer"


@pytest.fixture
async def gateway(fleet: Site) -> Running:
    await fleet.worker(ANY)
    return await fleet.gateway()


def large(path: str = PATH) -> bytes:
    """A request with two megabytes of raw tensor."""
    tensor = {
        "name": "IN",
        "datatype": "FP32",
        "shape": [len(VALUES)],
        "parameters": {"binary_data_size": VALUES.nbytes},
    }
    head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    return raw_request(head + VALUES.tobytes(), f"inference-header-content-length: {len(head)}", path=path)


def small() -> bytes:
    return raw_request(orjson.dumps(floats(2)), path=PATH)


@pytest.mark.parametrize("step", [3_000_000, 100_000, 99_991])
async def test_a_large_body_and_what_follows_it(gateway: Running, step: int) -> None:
    reader, writer = await gateway.connect()
    raw = large() + small() + large()
    for at in range(0, len(raw), step):
        writer.write(raw[at : at + step])
        await writer.drain()

    answers = [await read_response(reader) for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 200]
    for answer in (answers[0], answers[2]):
        assert answer.body[int(answer.headers["inference-header-content-length"]) :] == VALUES.tobytes()
    assert answers[1].json["outputs"][0]["data"] == [0, 1]
    assert gateway.gateway.service.admission.size == 0


async def test_the_bytes_bypass_the_event_loops_buffer(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[int] = []
    original = BodyReceiver.buffer_updated
    monkeypatch.setattr(
        BodyReceiver, "buffer_updated", lambda self, nbytes: (received.append(nbytes), original(self, nbytes))
    )
    reader, writer = await gateway.connect()
    writer.write(large())
    assert (await read_response(reader)).status == 200
    assert sum(received) > VALUES.nbytes / 2


async def test_a_refused_large_body_is_discarded_to_its_end_only(gateway: Running) -> None:
    reader, writer = await gateway.connect()
    gateway.gateway.service.fill = 1.0
    raw = large()
    writer.write(raw[:200_000])
    refused = await read_response(reader)
    gateway.gateway.service.fill = 0.0
    writer.write(raw[200_000:] + small())

    assert refused.status == 503
    assert (await read_response(reader)).status == 200


async def test_a_client_that_goes_leaves_nothing(gateway: Running) -> None:
    admission = gateway.gateway.service.admission
    _, writer = await gateway.connect()
    writer.write(large()[:600_000])
    await until(lambda: admission.size > 1_000_000)
    writer.transport.abort()
    await until(lambda: admission.size == 0)


async def test_a_client_that_stops_is_answered_408(fleet: Site) -> None:
    await fleet.worker(ANY)
    gateway = await fleet.gateway(read_timeout=0.5)
    reader, writer = await gateway.connect()
    writer.write(large()[:600_000])

    answer = await read_response(reader)

    assert answer.status == 408
    writer.write(large()[600_000:])
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    assert gateway.gateway.service.admission.size == 0
