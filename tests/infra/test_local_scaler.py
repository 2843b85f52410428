"""Workers are started, stopped and replaced, by a signal that this test writes; what a real scaler pushes is followed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.local.autoscaler import Autoscaler, Behaviour, Reading
from infra.local.fleet import FleetProcess
from infra.local.process import free_port
from infra.local.scaler import LocalScaler, PushSignal, Workers
from tests.gateway.fleet import Site, until
from tests.gateway.scaler.conftest import fleet, pytest_asyncio_loop_factories
from tests.gateway.scaler.test_server import start

__all__ = ["fleet", "pytest_asyncio_loop_factories"]

SERVER = """
import http.server, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Small(FleetProcess):
    """A process that is ready soon."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", SERVER, str(self.port)]


class Script:
    """A signal that says what it is told."""

    def __init__(self) -> None:
        self.reading: Reading | None = None

    async def read(self, replicas: int) -> Reading | None:
        return self.reading

    async def change(self, within: float) -> None:
        await asyncio.sleep(0.01)


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], FleetProcess]:
    return lambda name: Small(tmp_path / name, name, [], port=free_port(), path="/")


async def test_workers_follow_the_signal_and_end_in_order(make: Callable[[str], FleetProcess]) -> None:
    workers, script = Workers(make), Script()
    decide = Autoscaler(Behaviour(0, 3, 0.0, 0.0)).decide
    running = asyncio.ensure_future(LocalScaler(workers, script, decide).run())
    try:
        await asyncio.sleep(0.05)
        assert not workers.all, "nothing is known yet"
        script.reading = Reading(True, 2.0)
        await until(lambda: len(workers.ready) == 2)
        script.reading = None
        await asyncio.sleep(0.05)
        assert len(workers.alive) == 2
        script.reading = Reading(False, 0.0)
        await until(lambda: len(workers.all) == 2 and all(worker.ended for worker in workers.all))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await workers.close()
    assert [worker.status for worker in workers.all] == [0, 0]
    for worker in workers.all:
        assert worker.ready is not None
        assert worker.stopping is not None
        assert worker.ended is not None
        assert worker.started < worker.ready < worker.stopping < worker.ended


async def test_a_worker_that_ends_by_itself_is_replaced(make: Callable[[str], FleetProcess]) -> None:
    workers = Workers(make)
    workers.scale(1)
    await workers.settle()
    first = workers.all[0].process
    os.kill(first.pid, signal.SIGKILL)
    await until(lambda: not first.running)
    workers.scale(1)
    await workers.settle()
    assert [worker.status for worker in workers.all] == [-9, None]
    assert len(workers.ready) == 1
    await workers.close()
    assert workers.all[1].status == 0


async def test_what_a_scaler_pushes_is_followed_and_its_silence_changes_nothing(fleet: Site) -> None:
    scaler = await start(fleet, await fleet.transport())
    async with PushSignal(f"127.0.0.1:{scaler.port}", "new") as pushes:
        async with asyncio.timeout(60.0):
            while not pushes.active:  # a model that was never announced wants a worker
                await pushes.change(1.0)
        assert pushes.pushed > 0
        assert await pushes.read(0) == Reading(True, 1.0)
        await scaler.close()
        assert await pushes.read(1) is None
