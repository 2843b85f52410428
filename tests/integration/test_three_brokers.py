"""A fleet on three brokers with min.insync 2: its coordinator dies, and later nothing can be accepted for a while."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from infra.local import cluster_faults
from infra.local.cluster import Cluster, cluster
from penstock.client import AsyncClient
from penstock.client.requests import Pending
from protocol.errors import FleetError
from tests.integration.fleet import Fleet, fleet, wait_for
from tests.integration.repositories import COUNT, write_model

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(240)]

CALLERS = 4
BASE = 1_000_000
"""Numbers below zero take the model no time."""


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def running(brokers: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder: Path = tmp_path_factory.mktemp("fleet")
    write_model(folder / "models", "count", COUNT % str(folder / "runs"))
    with fleet(brokers.kafka, brokers.redis, "three", folder, folder / "models") as made:
        made.add_gateway()
        made.add_worker("--partitions", "6")
        made.wait_ready(models=1)
        yield made


class Callers:
    """Call one after another, whatever happens, and record the times of acceptance.

    Attributes:
        accepted: calls that got a 202, by number.
        refused: statuses of refused calls, with the time.
    """

    def __init__(self, url: str) -> None:
        self.accepted: dict[int, Pending] = {}
        self.accepted_at: list[float] = []
        self.refused: list[tuple[float, str]] = []
        self._client = AsyncClient(url, connections=CALLERS, retries=0)
        self._numbers = itertools.count(BASE)
        self._calling = [asyncio.create_task(self._call()) for _ in range(CALLERS)]

    async def _call(self) -> None:
        for number in self._numbers:
            try:
                pending = await self._client.submit("count", {"NUMBER": np.array([[-number]], np.int64)}, timeout=60)
            except FleetError as error:
                self.refused.append((time.monotonic(), error.code.name))
            else:
                self.accepted[number] = pending
                self.accepted_at.append(time.monotonic())

    async def more(self, count: int) -> None:
        """Return when this many more were accepted."""
        wanted = len(self.accepted) + count
        async with asyncio.timeout(60):
            while len(self.accepted) < wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def turned_away(self, count: int, since: float) -> None:
        """Return when this many were refused since then."""
        async with asyncio.timeout(60):
            while len([at for at, _ in self.refused if at > since]) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        for task in self._calling:
            task.cancel()
        await asyncio.gather(*self._calling, return_exceptions=True)

    async def answers(self) -> dict[int, int]:
        """The final answer of each accepted call."""
        got: dict[int, int] = {}
        for number, pending in self.accepted.items():
            result = await self._client.result(pending, wait=30)
            assert result is not None, f"{number} was accepted and has no answer"
            got[number] = int(result.outputs["NUMBER"][0, 0])
        await self._client.close()
        return got


def right(answers: dict[int, int]) -> bool:
    return all(answer == -number for number, answer in answers.items())


async def test_brokers_go_one_after_the_other(brokers: Cluster, running: Fleet) -> None:
    """Without one of three, everything continues; without two, nothing is accepted; every accepted call is answered in the end."""
    first = cluster_faults.coordinator(brokers)  # it also leads a third of the partitions
    second = next(broker for broker in brokers.brokers if broker is not first)
    calls = Callers(running.gateways[0].url)
    await calls.more(30)

    await asyncio.to_thread(first.kill)
    killed_at = time.monotonic()
    await calls.more(100)
    gap = max(later - sooner for sooner, later in itertools.pairwise(at for at in calls.accepted_at))
    print(f"longest time without an acceptance after the coordinator was killed: {gap:.2f} s")

    await asyncio.to_thread(second.stop)
    alone_at = time.monotonic()
    await calls.turned_away(CALLERS, alone_at)
    assert [at for at in calls.accepted_at if at > alone_at] == []
    assert {name for at, name in calls.refused if at > killed_at} == {"UNAVAILABLE"}

    for broker in (first, second):
        broker.launch()
    await calls.more(30)
    await calls.stop()
    answers = await calls.answers()
    assert len(answers) > 160
    assert all(answer == -number for number, answer in answers.items())
    wait_for("the lag to reach zero", lambda: running.workers[0].metric("penstock_worker_lag_records") == 0)
