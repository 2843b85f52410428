"""What callers of a model without a worker are told: they wait, time out or are refused, and are answered once one comes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from tests.integration.fleet import Fleet, fleet
from tests.integration.repositories import ADD, write_model
from tests.integration.test_scaler import BODY, until

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(400)]

CALL = "/v2/models/add/infer"
PATIENT = {"penstock-timeout-ms": "300000"}


async def scaled_to_zero(running: Fleet, caller: httpx.AsyncClient) -> None:
    """Start a worker if there is none, and stop it; the gateway has seen both."""
    if not running.workers:
        running.add_worker("--partitions", "2")
        await asyncio.to_thread(running.wait_ready, 1, 180.0)
    assert await asyncio.to_thread(running.workers.pop().stop) == 0

    async def gone() -> bool:
        state = (await caller.get("/v2/fleet/scaling", params={"model": "add"})).json()
        return bool(state["ready_workers"] == 0)

    await until("no worker", gone)


async def test_calls_wait_for_a_worker_or_their_deadline_and_too_many_are_told_when_to_come_again(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    write_model(repository, "add", ADD % (tmp_path / "adds"))
    with fleet(kafka_bootstrap, redis_url, f"z{time.time_ns() % 10**9}", tmp_path, repository) as running:
        gateway = running.add_gateway("--max-queued-calls-per-model", "2")
        async with httpx.AsyncClient(base_url=gateway.url, timeout=300.0) as caller:
            await scaled_to_zero(running, caller)

            late = await caller.post(CALL, json=BODY, headers={"penstock-timeout-ms": "300"})
            assert late.status_code == 504
            assert late.json()["error"] == (
                "Request timeout expired: no answer within 300 ms; "
                "no worker serves model 'add' version 1 now: the request waited for one"
            )

            accepted = await caller.post(CALL, json=BODY, headers={"prefer": "respond-async"})
            assert accepted.status_code == 202
            assert (await caller.get(accepted.headers["location"], params={"wait_s": "0"})).status_code == 202

            async def two_wait() -> list[asyncio.Task[httpx.Response]]:
                tasks = [asyncio.create_task(caller.post(CALL, json=BODY, headers=PATIENT)) for _ in range(2)]

                async def wait() -> bool:
                    return await asyncio.to_thread(gateway.metric, "penstock_gateway_inflight") == 2

                await until("both to wait", wait)
                return tasks

            waiting = await two_wait()
            refused = await caller.post(CALL, json=BODY)
            assert refused.status_code == 429
            assert "2 calls for this model wait at this gateway; at most 2 may" in refused.json()["error"]
            assert 1 <= int(refused.headers["retry-after"]) <= 60

            began = time.monotonic()
            running.add_worker("--partitions", "2")

            async def answered() -> bool:
                await caller.get("/v2/fleet/scaling")  # as a dashboard or a scaler does: the gateway sees the start
                return all(task.done() for task in waiting)

            await until("the answers", answered, within=180.0)
            took = time.monotonic() - began
            for answer in await asyncio.gather(*waiting):
                assert answer.status_code == 200, answer.text
                stages = dict(part.split("=", 1) for part in answer.headers["penstock-timing"].split(", "))
                assert int(stages["fetch"]) > 200_000, "its caller is told that it waited for a worker"
            fetched = await caller.get(accepted.headers["location"], params={"wait_s": "60"})
            assert fetched.status_code == 200

            async def seen() -> bool:
                return bool((await caller.get("/v2/fleet/scaling", params={"model": "add"})).json()["ready_workers"])

            await until("the start to be seen", seen)
            await scaled_to_zero(running, caller)
            waiting = await two_wait()
            refused = await caller.post(CALL, json=BODY)
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["retry-after"]) <= min(60, took + 30), "as long as its worker took to start"
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        assert running.stop() == [0]
