"""Batches that no caller waits for (`Executor.attempt`), on both kinds of instances."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.workers.children import CONFIG, ECHO, EXIT, RAISE, request, running, version_of
from workers.instances.job import InstanceDied

THREAD = CONFIG + 'parameters { key: "instance_isolation" value { string_value: "thread" } }'


@pytest.mark.parametrize("config", [CONFIG, THREAD], ids=["process", "thread"])
async def test_an_attempt_returns_outcomes_or_raises_and_blames_nobody(tmp_path: Path, config: str) -> None:
    async with running(version_of(tmp_path, config=config)) as served:
        executor = served.loaded.executors[0]
        (outcome,) = await executor.attempt([request(ECHO, 2.0)])
        with pytest.raises(Exception, match="a bad number"):
            await executor.attempt([request(RAISE)])

        assert outcome[0].array().tolist() == [[ECHO, 2.0]]
        assert executor.held == 0
        assert served.idle
        assert await served.value(1.0) == [2.0]


async def test_an_attempt_runs_between_the_jobs_before_and_after_it(tmp_path: Path) -> None:
    async with running(version_of(tmp_path, config=THREAD)) as served:
        executor = served.loaded.executors[0]
        served.submit(request(1.0))
        attempt = asyncio.ensure_future(executor.attempt([request(2.0)]))
        await asyncio.sleep(0)
        held = executor.held
        await attempt

        assert held == 1, "so that no job runs on the event loop beside it"
        assert (await served.back()).error is None


async def test_an_attempt_that_ends_its_process_is_an_error_and_the_instance_restarts(tmp_path: Path) -> None:
    async with running(version_of(tmp_path)) as served:
        with pytest.raises(InstanceDied, match="code 3"):
            await served.child.attempt([request(EXIT)])

        assert await served.value(1.0) == [2.0]
        assert served.child.restarts == 1
