"""A request that kills whole workers (its instance is a thread): the others are answered, it goes to the dead letters."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from penstock.client import AsyncClient
from protocol.errors import FleetError
from protocol.naming import Names
from protocol.transport import open_transport
from protocol.transport.settings import TransportSettings
from tests.integration.fleet import fleet
from tests.integration.repositories import write_model

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(180)]

CODE = """
import ctypes

class Model:
    def predict(self, A, B):
        if (A == 13).any():
            ctypes.string_at(0)
        return {"SUM": A + B}
"""
ON_A_THREAD = """
backend: "python" max_batch_size: 16
input [ { name: "A" data_type: TYPE_FP32 dims: [ 4 ] }, { name: "B" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "SUM" data_type: TYPE_FP32 dims: [ 4 ] } ]
dynamic_batching { preferred_batch_size: [ 16 ] max_queue_delay_microseconds: 500000 }
parameters { key: "instance_isolation" value { string_value: "thread" } }
"""


async def test_a_request_that_ends_workers_is_the_only_one_that_fails(
    kafka_bootstrap: str, redis_url: str, prefix: str, tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    write_model(repository, "add", CODE)
    (repository / "add" / "config.pbtxt").write_text(ON_A_THREAD)
    with fleet(kafka_bootstrap, redis_url, prefix, tmp_path, repository) as running:
        running.add_gateway()
        running.add_worker("--partitions", "1")
        running.wait_ready(models=1)
        client = AsyncClient(running.gateways[0].url, connections=16)

        async def ask(number: int) -> object:
            a, b = np.full((1, 4), number, np.float32), np.ones((1, 4), np.float32)
            try:
                return (await client.infer("add", {"A": a, "B": b}, timeout=120)).outputs["SUM"].tolist()
            except FleetError as exc:
                return exc.message

        began = time.monotonic()
        answers = await asyncio.gather(*[ask(number) for number in range(8, 24)])
        print(f"16 answers after {time.monotonic() - began:.1f} s")
        await client.close()

        for number, answer in zip(range(8, 24), answers, strict=True):
            if number == 13:
                assert "was begun 3 times" in str(answer)
            else:
                assert answer == [[number + 1.0] * 4]

        transport = open_transport(TransportSettings(kafka=kafka_bootstrap, redis=redis_url, prefix=prefix))
        await transport.open()
        try:
            record = await transport.bus.read_record(Names(prefix).dead_topic("add"), 0, 0)
        finally:
            await transport.close()
        assert "requests were running when the worker died" in running.workers[0].log.read_text()
        assert record is not None
        headers = dict(record.headers)
        assert (headers["dead-reason"], headers["dead-attempts"]) == (b"attempts", b"3")
