"""A model that kills its process on a marked request, in a whole fleet in one process."""

from __future__ import annotations

import asyncio
import os
import re
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from gateway.settings import GatewaySettings
from penstock.client import AsyncClient
from penstock.one_process import OneProcess
from protocol.errors import FleetError
from protocol.transport.settings import TransportSettings
from workers.instances.process.executor import ChildExecutor
from workers.repository.model_files import ModelFile
from workers.settings import WorkerSettings

MODEL = """
    import os

    class Model:
        inputs = {"X": ("FP32", [1])}
        outputs = {"Y": ("FP32", [1])}
        max_batch_size = 8

        def predict(self, X):
            if (X == 13).any():
                os._exit(5)
            return {"Y": X + 1}
"""


@asynccontextmanager
async def fleet(tmp_path: Path) -> AsyncIterator[OneProcess]:
    (tmp_path / "model.py").write_text(textwrap.dedent(MODEL))
    built = OneProcess(
        GatewaySettings(http_port=0, metrics_port=0),
        WorkerSettings(model_file=(ModelFile(tmp_path / "model.py"),), drain_grace=5.0),
        TransportSettings(),
    )
    await built.start()
    try:
        yield built
    finally:
        await built.stop()


@pytest.mark.slow
async def test_a_crash_fails_its_request_and_the_next_child_serves_the_others(tmp_path: Path) -> None:
    async with fleet(tmp_path) as built, AsyncClient(f"http://127.0.0.1:{built.gateway.port}") as client:

        async def ask(number: float) -> float:
            return float((await client.infer("model", {"X": np.full((1, 1), number, np.float32)})).outputs["Y"][0, 0])

        assert await ask(1) == 2.0
        (executor,) = built.worker.models.serving()[0].loaded.executors
        assert isinstance(executor, ChildExecutor)
        first = executor.pid
        assert first not in (None, os.getpid())
        numbers = [1.0, 13.0, 2.0, 3.0]
        answers = await asyncio.gather(*[ask(number) for number in numbers], return_exceptions=True)

        crashed = answers.pop(1)
        assert answers == [2.0, 3.0, 4.0]
        assert isinstance(crashed, FleetError)
        assert re.search(r"exited with code 5 \(/.*/model\.py:\d+, in predict\) on this request", crashed.message)
        assert await ask(7) == 8.0
        assert executor.pid != first
        async with httpx.AsyncClient() as http:
            page = (await http.get(f"http://127.0.0.1:{built.gateway.metrics_port}/metrics")).text
        (restarts,) = re.findall(r"^penstock_worker_instance_restarts_total\{.*\} (\S+)$", page, re.MULTILINE)
        assert float(restarts) == executor.restarts >= 1
