"""From zero workers to one and back: a real fleet, and a real gRPC client in KEDA's place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from tests.gateway.scaler.keda import keda, ref
from tests.integration.fleet import Process, fleet, wait_for
from tests.integration.repositories import ADD, write_model

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(600)]

ROWS = {"datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
BODY = {"inputs": [{"name": "A", **ROWS}, {"name": "B", **ROWS}]}
QUICK = {"scaleDownWindowSeconds": "1"}


async def until(what: str, ask: Callable[[], Awaitable[bool]], within: float = 30.0) -> None:
    end = time.monotonic() + within
    while not await ask():
        assert time.monotonic() < end, f"waited {within} s for {what}"
        await asyncio.sleep(0.05)


async def ready(process: Process) -> bool:
    async with httpx.AsyncClient() as client:
        try:
            return (await client.get(f"http://127.0.0.1:{process.metrics_port}/v2/health/ready")).status_code == 200
        except httpx.HTTPError:
            return False


async def test_one_request_wakes_a_worker_and_its_answer_lets_it_go(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    write_model(repository, "add", ADD % (tmp_path / "adds"))
    with fleet(kafka_bootstrap, redis_url, f"s{time.time_ns() % 10**9}", tmp_path, repository) as running:
        gateway, scaler = running.add_gateway(), running.add_scaler()
        await until("the scaler", lambda: ready(scaler))
        asked = ref("add", **QUICK)
        async with keda(scaler.grpc_port) as client, httpx.AsyncClient(base_url=gateway.url, timeout=200.0) as caller:
            assert await client.is_active(asked), "a model that was never announced wants a worker that announces it"
            first = running.add_worker("--partitions", "4")
            await asyncio.to_thread(running.wait_ready, 1, 180.0)
            assert await asyncio.to_thread(first.stop) == 0
            running.workers.clear()
            stream = client.stream("StreamIsActive", asked)
            pushed = [await client.next_active(stream)]
            while pushed[-1]:
                pushed.append(await client.next_active(stream))
            assert await client.metric(asked) == 0

            accepted = await caller.post("/v2/models/add/infer", json=BODY, headers={"prefer": "respond-async"})
            at = time.perf_counter()
            assert accepted.status_code == 202, accepted.text
            assert await client.next_active(stream)
            pushed_after = time.perf_counter() - at
            assert pushed_after < 5.0
            assert scaler.metric("penstock_scaler_hints_total") >= 1, "it did not wait for its next look at the log"
            assert await client.is_active(asked)
            assert await client.metric(asked) == 1
            state = (await caller.get("/v2/fleet/scaling", params={"model": "add"})).json()
            assert (state["backlog_requests"], state["backlog_rows"], state["ready_workers"]) == (1, 1, 0)
            assert state["wanted_workers"] == 1
            await asyncio.sleep(1.5)  # longer than the window: the request still waits
            assert await client.is_active(asked)
            assert (await caller.get("/v2/fleet/scaling", params={"model": "add"})).json()["oldest_age_ms"] >= 1000

            patient = {"penstock-timeout-ms": "200000"}
            waiting = asyncio.create_task(caller.post("/v2/models/add/infer", json=BODY, headers=patient))
            running.add_worker("--partitions", "4")
            waited = await waiting
            assert waited.status_code == 200, waited.text
            stages = dict(part.split("=", 1) for part in waited.headers["penstock-timing"].split(", "))
            assert int(stages["fetch"]) > 200_000, "its caller is told that it waited for a worker"
            answer = await caller.get(accepted.headers["location"], params={"wait_s": "60"})
            assert answer.status_code == 200, answer.text
            assert answer.json()["outputs"][0]["data"] == [2.0, 4.0, 6.0, 8.0]
            assert not await client.next_active(stream)
            assert not await client.is_active(asked)
            assert await client.metric(asked) == 0
            text = (await caller.get(f"http://127.0.0.1:{scaler.metrics_port}/metrics")).text
            assert 'penstock_ready_workers{model="add",version="1"} 1.0' in text
            assert 'penstock_backlog_requests{lane="interactive",model="add",version="1"} 0.0' in text
            stream.cancel()
        assert running.stop() == [0, 0, 0]


async def test_records_of_any_producer_and_a_dead_worker_are_seen_in_the_log(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path
) -> None:
    """No gateway sends a hint: the scaler looks at the log by itself."""
    repository = tmp_path / "models"
    write_model(repository, "add", ADD % (tmp_path / "adds"))
    with fleet(kafka_bootstrap, redis_url, f"s{time.time_ns() % 10**9}", tmp_path, repository) as running:
        gateway, scaler = running.add_gateway(), running.add_scaler()
        worker = running.add_worker("--partitions", "2")
        await asyncio.to_thread(running.wait_ready, 1, 180.0)
        await until("the scaler", lambda: ready(scaler))
        asked = ref("add", **QUICK)
        async with keda(scaler.grpc_port) as client, httpx.AsyncClient(base_url=gateway.url, timeout=60.0) as caller:

            async def idle() -> bool:
                return not await client.is_active(asked)

            await until("nothing to do", idle)
            worker.kill()
            running.workers.clear()
            for _ in range(3):  # two seconds pass before the worker counts as gone: no hint is sent
                accepted = await caller.post("/v2/models/add/infer", json=BODY, headers={"prefer": "respond-async"})
                assert accepted.status_code == 202

            async def seen() -> bool:
                state = (await caller.get("/v2/fleet/scaling", params={"model": "add", "version": "1"})).json()
                return bool(state["backlog_requests"] == 3 and state["ready_workers"] == 0)

            await until("the records in the log", seen)
            await until("the scaler to see them", lambda: client.is_active(asked))
            assert await client.metric(asked) >= 1
            wait_for("the scaler's own gauge", lambda: scaler.metric("penstock_backlog_requests") == 3, 10.0)
