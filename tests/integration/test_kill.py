"""A worker dies by SIGKILL in the middle of 5,000 requests: two gateways, two workers, four partitions, two models."""

from __future__ import annotations

import asyncio
import collections
import itertools
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import redis

from penstock.client import AsyncClient
from protocol.naming import Names
from tests.integration.fleet import Fleet, fleet, wait_for
from tests.integration.repositories import ADD, executed, write_model

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(240)]

REQUESTS = 5000
CALLERS = 64
KILL_AFTER = 1500
TERMINAL = "18446744073709551615-18446744073709551615"


class Traffic:
    """Callers that check every answer and record it for the checks at the end."""

    def __init__(self, fleet: Fleet) -> None:
        self.clients = [AsyncClient(gateway.url, connections=CALLERS) for gateway in fleet.gateways]
        self.ids: collections.Counter[str] = collections.Counter()
        self.wrong: list[int] = []
        self.answered_at: list[float] = []

    async def one(self, number: int) -> None:
        model = ("add", "plus")[number % 2]
        a, b = np.float32([[number, 1, 2, 3]]), np.float32([[1, number, 0.5, -number]])
        answer = await self.clients[number % len(self.clients)].infer(model, {"A": a, "B": b}, timeout=60)
        self.answered_at.append(time.monotonic())
        self.ids[answer.request_id] += 1
        if not np.array_equal(answer.outputs["SUM"], a + b):
            self.wrong.append(number)

    async def run(self, kill: asyncio.Event) -> None:
        numbers = iter(range(REQUESTS))

        async def caller() -> None:
            for number in numbers:
                await self.one(number)
                if len(self.answered_at) == KILL_AFTER:
                    kill.set()

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        for client in self.clients:
            await client.close()


@pytest.mark.parametrize("whole_machine", [False, True], ids=["worker", "worker-and-supervisor"])
async def test_every_request_is_answered_right_and_once(
    kafka_bootstrap: str, redis_url: str, prefix: str, tmp_path: Path, whole_machine: bool
) -> None:
    repository = tmp_path / "models"
    for name in ("add", "plus"):
        write_model(repository, name, ADD % (tmp_path / "runs"))
    with fleet(kafka_bootstrap, redis_url, prefix, tmp_path, repository) as running:
        for _ in range(2):
            running.add_gateway()
            running.add_worker("--partitions", "4")
        running.wait_ready(models=2)
        traffic, kill = Traffic(running), asyncio.Event()
        begun_at = time.monotonic()
        work = asyncio.create_task(traffic.run(kill))
        await kill.wait()
        victim = running.workers[0]
        await asyncio.to_thread(in_mid_batch, tmp_path, victim.working_pid)
        killed_at = time.monotonic()
        await asyncio.to_thread(victim.kill if whole_machine else victim.kill_worker)
        await work
        print(f"{REQUESTS} requests in {time.monotonic() - begun_at:.1f} s")

        assert traffic.wrong == []
        assert len(traffic.ids) == REQUESTS
        assert set(traffic.ids.values()) == {1}
        runs = collections.Counter(executed(tmp_path / "runs"))
        redelivered = [number for number, count in runs.items() if count > 1]
        assert set(runs) == set(range(REQUESTS))
        assert redelivered, "no request ran twice, so none was redelivered: this run proves nothing"
        one_terminal_each(redis_url, Names(prefix), list(traffic.ids))
        times = sorted(at for at in traffic.answered_at if at > killed_at - 0.5)
        gap = max(later - sooner for sooner, later in itertools.pairwise(times))
        print(f"longest gap {gap:.2f} s, {len(redelivered)} requests ran twice")
        survivors = running.workers[1:] if whole_machine else running.workers
        wait_for("the lag to reach zero", lambda: sum(w.metric("penstock_worker_lag_records") for w in survivors) == 0)


def in_mid_batch(folder: Path, worker: int) -> None:
    """Suspend the worker while a model in a child of it runs a batch: the model notes the batch, and then takes 30 ms."""
    process = psutil.Process(worker)
    children = process.children(recursive=True)
    notes = [path for child in children if (path := folder / f"runs.{child.pid}").exists()]

    def noted() -> int:
        return sum(path.stat().st_size for path in notes)

    while True:
        before = noted()
        wait_for("a batch of the victim", lambda before=before: noted() > before, pause=0.001)
        process.suspend()
        if time.time() - max(path.stat().st_mtime for path in notes) < 0.02:
            return
        process.resume()  # on a busy machine the batch may have ended before the worker was suspended


def one_terminal_each(url: str, names: Names, ids: list[str]) -> None:
    """Every stream holds exactly one entry, the terminal one, perhaps trimmed, and refuses another."""
    store = redis.Redis.from_url(url)
    with store.pipeline(transaction=False) as pipe:
        for request_id in ids:
            pipe.xinfo_stream(names.result_key(request_id))
        for info in pipe.execute():
            assert info["last-generated-id"].decode() == TERMINAL
    store.close()
