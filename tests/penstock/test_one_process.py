"""The fleet in one process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import numpy as np
import pytest

from gateway.settings import GatewaySettings
from penstock.client import AsyncClient
from penstock.one_process import OneProcess
from protocol.transport.settings import TransportSettings
from tests.workers.fleet import write_model
from workers.settings import WorkerSettings

CALLS = 1000


@pytest.mark.parametrize("durable", [False, True])
async def test_after_a_thousand_answers_the_statistics_say_a_thousand(tmp_path: Path, *, durable: bool) -> None:
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
            for calls in (CALLS, CALLS + 1, CALLS + 2):
                count = CALLS if calls == CALLS else 1
                await asyncio.gather(*[client.infer("m", {"X": np.ones((1, 1), np.float32)}) for _ in range(count)])
                answer = await asyncio.to_thread(httpx.get, f"{url}/v2/models/m/stats")
                (entry,) = answer.json()["model_stats"]
                assert entry["inference_stats"]["success"]["count"] == calls
                assert entry["inference_count"] == calls
    finally:
        await fleet.stop()
