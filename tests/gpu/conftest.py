"""Tests on a real GPU. Without an NVIDIA GPU they are skipped, and say so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.settings import GatewaySettings
from penstock.client import AsyncClient
from penstock.one_process import OneProcess
from protocol.transport.settings import TransportSettings
from tests.gpu.fleet import Fleet, Serve
from workers.devices import Hardware
from workers.settings import WorkerSettings

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A GPU's start and the first kernels take seconds."""
    there = len(Hardware().gpus) > 0
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.timeout(180))
            if not there:
                item.add_marker(pytest.mark.skip(reason="this machine has no NVIDIA GPU"))


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Serves the models in `tmp_path` (see `write`)."""

    @asynccontextmanager
    async def fleet() -> AsyncIterator[Fleet]:
        built = OneProcess(
            GatewaySettings(http_port=0, metrics_port=0),
            WorkerSettings(model_repository=(tmp_path,), drain_grace=5.0),
            TransportSettings(),
        )
        await built.start()
        try:
            async with AsyncClient(f"http://127.0.0.1:{built.gateway.port}") as client:
                yield Fleet(built, client)
        finally:
            await built.stop()

    return fleet
