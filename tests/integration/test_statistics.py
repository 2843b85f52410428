"""The fleet's statistics on a real broker and a real store: exact, and growing, while workers are killed and all restarts."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis

from penstock.client import AsyncClient
from protocol.naming import Names
from tests.integration.fleet import Fleet, Process, fleet, wait_for
from tests.integration.repositories import ADD, write_model

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(500)]

CALLERS = 32


def entry(process: Process, query: str = "") -> dict[str, Any]:
    """The statistics of model `add`."""
    (found,) = httpx.get(f"{process.url}/v2/models/add/stats{query}", timeout=10).json()["model_stats"]
    assert isinstance(found, dict)
    return found


def numbers(stats: dict[str, Any]) -> list[int]:
    """Every number that must never fall."""
    durations = [number for duration in stats["inference_stats"].values() for number in duration.values()]
    return [stats["inference_count"], stats["execution_count"], stats["last_inference"], *durations]


class Calls:
    """Callers of all gateways; each call has 1, 2 or 3 rows. They stop when told, and check every answer."""

    def __init__(self, running: Fleet) -> None:
        self.clients = [AsyncClient(gateway.url, connections=CALLERS) for gateway in running.gateways]
        self.answered = self.rows = 0
        self.ids: set[str] = set()
        self._numbers = itertools.count()

    async def one(self) -> None:
        number = next(self._numbers)
        rows = 1 + number % 3
        a, b = np.full((rows, 4), number, np.float32), np.ones((rows, 4), np.float32)
        answer = await self.clients[number % len(self.clients)].infer("add", {"A": a, "B": b}, timeout=300)
        assert np.array_equal(answer.outputs["SUM"], a + b)
        self.answered += 1
        self.rows += rows
        self.ids.add(answer.request_id)

    async def many(self, count: int) -> None:
        left = iter(range(count))

        async def caller() -> None:
            for _ in left:
                await self.one()

        await asyncio.gather(*[caller() for _ in range(CALLERS)])

    async def close(self) -> None:
        for client in self.clients:
            await client.close()


class Poller:
    """Reads the statistics of the gateways in turn, and compares each reading with the one before."""

    def __init__(self, running: Fleet, calls: Calls) -> None:
        self.readings = 0
        self._running = running
        self._calls = calls
        self._last: list[int] = []
        self._over = False

    async def run(self) -> None:
        while not self._over:
            gateway = self._running.gateways[self.readings % len(self._running.gateways)]
            answered = self._calls.answered
            stats = await asyncio.to_thread(entry, gateway)
            assert stats["inference_stats"]["success"]["count"] >= answered, "an answered call is not counted yet"
            now = numbers(stats)
            assert all(later >= before for before, later in zip(self._last, now, strict=False)), (self._last, now)
            self._last = now
            self.readings += 1

    def stop(self) -> None:
        self._over = True


def exact(running: Fleet, calls: Calls) -> dict[str, Any]:
    """The counts of all gateways are those of the calls that were answered."""
    entries = [entry(gateway) for gateway in running.gateways]
    for stats in entries:
        counts = {name: duration["count"] for name, duration in stats["inference_stats"].items()}
        answered = calls.answered
        assert counts == {
            "success": answered, "fail": 0, "queue": answered, "compute_input": answered, "compute_infer": answered,
            "compute_output": answered, "cache_hit": 0, "cache_miss": 0,
        }  # fmt: skip
        assert stats["inference_count"] == calls.rows
        sizes = [(row["batch_size"], row["compute_infer"]["count"]) for row in stats["batch_stats"]]
        assert stats["execution_count"] == sum(count for _, count in sizes)
        assert stats == entries[0]
    for gateway in running.gateways:
        assert gateway.metric("nv_inference_request_success") == calls.answered
        assert gateway.metric("nv_inference_count") == calls.rows
        assert gateway.metric("nv_inference_request_failure") == 0
    return entries[0]


async def kill_serving(worker: Process) -> None:
    """Kill the worker's process while it serves. Between two of them the supervisor is alone, which must live on."""
    await asyncio.to_thread(wait_for, "the victim", lambda: worker.metric("penstock_worker_ready") == 1, 150)
    worker.kill_worker()


async def test_counts_are_exact_while_workers_are_killed_and_after_everything_restarts(
    kafka_bootstrap: str, redis_url: str, prefix: str, tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    write_model(repository, "add", ADD % (tmp_path / "runs"))
    with fleet(kafka_bootstrap, redis_url, prefix, tmp_path, repository) as running:
        for _ in range(2):
            running.add_gateway()
            running.add_worker("--partitions", "4")
        running.wait_ready(models=1, within=150)
        calls = Calls(running)
        poller = Poller(running, calls)
        polling = asyncio.create_task(poller.run())
        work = asyncio.create_task(calls.many(1600))
        for kill, victim in enumerate((0, 1, 0), 1):
            while calls.answered < 350 * kill and not work.done():  # noqa: ASYNC110 (it waits for callers)
                await asyncio.sleep(0.005)
            await kill_serving(running.workers[victim])
        await work
        poller.stop()
        await polling
        assert len(calls.ids) == calls.answered == 1600
        before = exact(running, calls)
        own = entry(running.gateways[0], "?per_worker=true")["workers"]
        assert own, "no worker reports"
        # Killed workers began again from zero, so their own counts no longer add up to the fleet's.
        assert sum(worker["inference_count"] for worker in own) < calls.rows
        print(f"{poller.readings} readings during {calls.answered} calls")

        # perf_analyzer: two readings around a window, with another kill in it
        await kill_serving(running.workers[1])
        await calls.many(300)
        after = exact(running, calls)
        assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 300
        assert all(later >= sooner for sooner, later in zip(numbers(before), numbers(after), strict=True))
        executions = after["execution_count"] - before["execution_count"]
        assert 300 / 16 <= executions <= after["inference_count"] - before["inference_count"]

        # no worker is left: the counts stay, at a gateway that never saw one, too
        for worker in running.workers:
            worker.stop()
        running.workers.clear()
        assert exact(running, calls) == after
        running.gateways[0].stop()
        running.gateways[0] = late = running.add_gateway()
        running.gateways.pop()
        wait_for("the late gateway", lambda: _ready(late), 150)
        assert exact(running, calls) == after
        await calls.close()

        # a store without its data: counts start again, and calls are answered
        store = redis.Redis.from_url(redis_url)
        names = Names(prefix)
        store.delete(names.totals_key("add", "1"), names.totals_key("add", "1") + ":recent")
        store.set(names.totals_key("add", "1") + ":recent", "something else")
        running.add_worker("--partitions", "4", name="worker-2")
        running.wait_ready(models=1, within=150)
        calls = Calls(running)
        await calls.many(50)
        assert calls.answered == 50
        store.delete(names.totals_key("add", "1") + ":recent")
        calls.answered = calls.rows = 0
        await calls.many(50)
        exact(running, calls)
        await calls.close()
        store.close()


async def test_a_server_with_a_data_folder_keeps_its_counts_when_it_is_killed(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    write_model(repository, "add", ADD % (tmp_path / "runs"))
    serve = ("serve", "--model-repository", str(repository), "--data-dir", str(tmp_path / "data"))
    answered = certain = 0
    for turn in range(3):
        server = Process("server", tmp_path / f"server-{turn}.log", *serve)
        try:
            wait_for("the server", lambda server=server: _ready(server), 150)
            stats = entry(server)
            counted = stats["inference_stats"]["success"]["count"]
            assert certain <= counted <= answered + CALLERS * turn, (
                "answered calls are counted, and at most those in flight beside"
            )
            wait_for("redelivered requests", lambda server=server: server.metric("penstock_worker_lag_records") == 0)
            assert counted <= server.metric("nv_inference_request_success") <= answered + CALLERS * turn
            start = entry(server)["inference_stats"]["success"]["count"]
            done = await _until_killed(server, 200)
            certain = start + done
            answered = certain
        finally:
            if server.process.poll() is None:
                server.kill()


def _ready(server: Process) -> bool:
    try:
        return httpx.get(f"{server.url}/v2/health/ready", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


async def _until_killed(server: Process, count: int) -> int:
    """Calls that were answered before the server was killed in the middle of further ones."""
    done = 0

    async def caller(client: AsyncClient) -> None:
        nonlocal done
        ones = np.ones((1, 4), np.float32)
        while True:
            await client.infer("add", {"A": ones, "B": ones}, timeout=5)
            done += 1
            if done == count:
                server.kill()

    async with AsyncClient(server.url, connections=CALLERS, retries=0) as client:
        results = await asyncio.gather(*[caller(client) for _ in range(CALLERS)], return_exceptions=True)
    assert all(isinstance(result, Exception) for result in results)
    return done
