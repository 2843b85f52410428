"""The times of real answers as the SDK gives them, of every kind, from a whole fleet in one process."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from gateway.settings import GatewaySettings
from penstock.client import AsyncClient, InferResult, Times
from penstock.client.timing import sentence
from penstock.one_process import OneProcess
from protocol.transport.settings import TransportSettings
from tests.workers.fleet import IDENTITY, write_model
from workers.settings import WorkerSettings

ONE = {"X": np.ones((1, 1), np.float32)}


@dataclasses.dataclass
class Site:
    """A fleet with the models `m` and `cached`, and how it keeps its queue."""

    fleet: OneProcess
    durable: bool

    def client(self, *, rpc: bool) -> AsyncClient:
        gateway = self.fleet.gateway
        return AsyncClient(
            f"grpc://127.0.0.1:{gateway.grpc_port}" if rpc else f"http://127.0.0.1:{gateway.port}", connections=64
        )


@pytest.fixture(params=[False, True], ids=["memory", "data-dir"])
async def site(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Site]:
    write_model(tmp_path / "models", "m")
    write_model(tmp_path / "models", "cached", IDENTITY + "response_cache { enable: true }")
    fleet = OneProcess(
        GatewaySettings(http_port=0, grpc_port=0, metrics_port=None),
        WorkerSettings(model_repository=(tmp_path / "models",)),
        TransportSettings(data_dir=tmp_path / "data" if request.param else None),
    )
    await fleet.start()
    try:
        yield Site(fleet, request.param)
    finally:
        await fleet.stop()


def checked(result: InferResult, waited: float | None = None) -> Times:
    """What must hold of every answer."""
    times = result.times
    parts = [part for part in (times.queued, times.waiting, times.model, times.way) if part is not None]
    assert times.total is not None, result.timing
    assert all(part >= 0 for part in parts), result.timing
    assert sum(parts) == pytest.approx(times.total)
    assert times.total < 60, result.timing
    if waited is not None:
        assert times.total <= waited, result.timing
    assert sentence(times)
    return times


@pytest.mark.parametrize("rpc", [False, True], ids=["http", "grpc"])
async def test_every_kind_of_call_tells_its_times(site: Site, rpc: bool) -> None:
    async with site.client(rpc=rpc) as client:

        async def call(model: str = "m", **options: str) -> Times:
            begin = time.perf_counter()
            result = await client.infer(model, ONE, **options)  # type: ignore[arg-type]
            return checked(result, time.perf_counter() - begin)

        plain = await call()
        assert plain.delivered
        assert plain.model is not None
        assert (plain.rows, plain.requests, plain.attempt) == (1, 1, 1)

        first, again = await call(idempotency_key="k"), checked(await client.infer("m", ONE, idempotency_key="k"))
        assert first.delivered
        assert not again.delivered
        assert again.model == pytest.approx(first.model, abs=2e-6)  # the store rounds

        lane = await call(lane="batch")
        assert lane.delivered
        assert lane.model is not None
        assert lane.reason == "batch_lane"

        missed, hit = await call("cached"), await call("cached")
        assert (missed.reason != "cache_hit", hit.reason) == (True, "cache_hit")
        assert (hit.model, hit.waiting, hit.rows, hit.requests) == (None, None, None, None)
        assert hit.delivered
        assert sentence(hit).endswith("from the response cache")


async def test_an_asynchronous_answer_tells_the_times_of_its_run(site: Site) -> None:
    async with site.client(rpc=False) as client:
        pending = await client.submit("m", ONE)
        answers = [await client.result(pending) for _ in range(2)]
    first, again = [checked(answer) for answer in answers if answer is not None]
    assert first == again
    assert not first.delivered
    assert first.model is not None
    assert sentence(first).startswith("the answer was ready after ")


async def test_many_at_once_share_batches_and_their_times_add_up(site: Site) -> None:
    async with site.client(rpc=False) as client:
        results = [outcome.unwrap() async for outcome in client.infer_many("m", [ONE] * 200, concurrency=64)]
    every = [checked(result) for result in results]
    assert all(times.delivered and times.rows and times.requests for times in every)
    assert max(times.rows or 0 for times in every) > 1
