"""One process in memory: callers that go away, deadlines and keys leave nothing behind."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import httpx

from gateway.settings import GatewaySettings
from penstock.one_process import OneProcess
from protocol.transport.settings import TransportSettings
from tests.workers.fleet import IDENTITY, until, write_model
from workers.settings import WorkerSettings

CALLS = 600
AT_ONCE = 60
BODY = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 2.0, 3.0, 4.0]}]}
SLOW = IDENTITY + "dynamic_batching { max_queue_delay_microseconds: 3000 }"


async def one_call(client: httpx.AsyncClient, url: str, dice: random.Random) -> int:
    """A call of some kind; the status, or 0 if the caller went away."""
    model, headers, leaves = dice.choice("mn"), {}, 30.0
    kind = dice.randrange(5)
    if kind == 0:
        headers["penstock-timeout-ms"] = str(dice.randrange(1, 8))
    elif kind == 1:
        headers["idempotency-key"] = str(dice.randrange(40))
    elif kind == 2:
        headers["prefer"] = "respond-async"
    elif kind == 3:
        leaves = dice.uniform(0.0, 0.02)
    try:
        async with asyncio.timeout(leaves):
            answer = await client.post(f"{url}/v2/models/{model}/infer", json=BODY, headers=headers)
    except TimeoutError:
        return 0
    if answer.status_code == 200:
        assert answer.json()["outputs"][0]["data"] == [1.0, 2.0, 3.0, 4.0]
    return answer.status_code


async def test_callers_in_a_hurry_leave_nothing_behind(tmp_path: Path) -> None:
    write_model(tmp_path, "m")
    write_model(tmp_path, "n", SLOW)
    settings = GatewaySettings(http_port=0, metrics_port=None)
    fleet = OneProcess(settings, WorkerSettings(model_repository=(tmp_path,)), TransportSettings())
    await fleet.start()
    try:
        url, numbers, seen = f"http://127.0.0.1:{fleet.gateway.port}", iter(range(CALLS)), list[int]()
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=AT_ONCE), timeout=60) as client:

            async def caller() -> None:
                for number in numbers:
                    seen.append(await one_call(client, url, random.Random(number)))

            async with asyncio.timeout(120):
                await asyncio.gather(*[caller() for _ in range(AT_ONCE)])
            assert set(seen) <= {0, 200, 202, 504}
            assert min(seen.count(status) for status in (200, 202)) > CALLS / 20
            assert (await client.post(f"{url}/v2/models/m/infer", json=BODY)).status_code == 200
        service, broker = fleet.gateway.service, fleet._transport.bus._broker  # type: ignore[attr-defined]
        await until(lambda: len(service.completion.pending) == 0)
        await until(lambda: service.admission.size == 0 and service.admission.calls == 0)
        for serving in fleet.worker.models.serving():
            await until(lambda runner=serving.runner: runner.in_flight == 0 and runner._memory.held == 0)  # type: ignore[misc]
        await until(lambda: broker._size == 0)
    finally:
        await fleet.stop()
