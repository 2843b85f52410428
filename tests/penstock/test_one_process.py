"""The fleet in one process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import numpy as np
import pytest

from gateway.settings import GatewaySettings
from penstock.client import AsyncClient
from penstock.client.requests import InferResult
from penstock.one_process import OneProcess
from protocol.naming import Names
from protocol.transport.settings import TransportSettings
from tests.workers.fleet import turn_of_the_loop, write_model
from workers.settings import WorkerSettings
from workers.worker import Worker


async def in_turn(client: AsyncClient, count: int) -> list[InferResult]:
    """This many calls by eight callers."""
    numbers, answers = iter(range(count)), list[InferResult]()

    async def ask() -> None:
        for _ in numbers:
            answers.append(await client.infer("m", {"X": np.ones((1, 1), np.float32)}))

    await asyncio.gather(*[ask() for _ in range(8)])
    return answers


@pytest.mark.parametrize(("calls", "durable"), [(1000, False), (100, True)])
async def test_after_a_thousand_answers_the_statistics_say_a_thousand(
    tmp_path: Path, calls: int, *, durable: bool
) -> None:
    write_model(tmp_path / "models", "m")
    fleet = OneProcess(
        GatewaySettings(http_port=0, metrics_port=None),
        WorkerSettings(model_repository=(tmp_path / "models",)),
        TransportSettings(data_dir=tmp_path / "data" if durable else None),
    )
    await fleet.start()
    try:
        url = f"http://127.0.0.1:{fleet.gateway.port}"
        async with AsyncClient(url, connections=16) as client:
            for count in (calls, calls + 1, calls + 2):
                more = calls if count == calls else 1
                await in_turn(client, more)
                answer = await asyncio.to_thread(httpx.get, f"{url}/v2/models/m/stats")
                (entry,) = answer.json()["model_stats"]
                assert entry["inference_stats"]["success"]["count"] == count
                assert entry["inference_count"] == count
    finally:
        await fleet.stop()


async def test_two_workers_with_different_files_under_one_version_are_reported(tmp_path: Path) -> None:
    """Answers say which files ran, the index says that they differ, and a metric counts them."""
    for folder in ("a", "b"):
        write_model(tmp_path / folder, "m", files={"weights": folder})
    fleet = OneProcess(
        GatewaySettings(http_port=0, metrics_port=0),
        WorkerSettings(model_repository=(tmp_path / "a",), worker="a"),
        TransportSettings(),
    )
    await fleet.start()
    transport = fleet._transport
    other = Worker(
        WorkerSettings(model_repository=(tmp_path / "b",), worker="b", metrics_port=None), transport, Names()
    )
    url = f"http://127.0.0.1:{fleet.gateway.port}"
    try:
        await other.start()
        digests = [worker.models.serving()[0].loaded.version.digest[:12] for worker in (fleet.worker, other)]
        assert digests[0] != digests[1]

        async def index() -> list[dict[str, str]]:
            async with httpx.AsyncClient() as client:
                return list((await client.post(f"{url}/v2/repository/index", json={})).json())

        async with asyncio.timeout(20):
            entries = await index()
            while "reason" not in entries[0]:
                await turn_of_the_loop()
                entries = await index()
        assert all(digest in entries[0]["reason"] for digest in digests)
        shown = (await asyncio.to_thread(httpx.get, f"http://127.0.0.1:{fleet.gateway.metrics_port}/metrics")).text
        assert 'penstock_gateway_model_digests{model="m",version="1"} 2.0' in shown
        async with AsyncClient(url, connections=8) as client:
            seen = {answer.timing.rpartition("digest=")[2].strip('"') for answer in await in_turn(client, 200)}
        assert seen
        assert seen <= set(digests)
    finally:
        await other.close()
        await fleet.stop()
