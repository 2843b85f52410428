"""`penstock serve` with more than one core for the doors: this process has models and log, acceptor processes take the calls.

The acceptors are gateways on the transport of this process, over a socket (`protocol.transport.embedded.remote`), as gateways of a
fleet are on Kafka and Redis: a request goes through the same log, batcher and fenced results.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from gateway.settings import GatewaySettings
from penstock.processes.parent import Processes
from protocol.errors import ConfigError
from protocol.runtime.clock import Clock
from protocol.runtime.loop import QUICK, StopEvent, stop_signals, until
from protocol.transport import open_transport
from protocol.transport.embedded.memory import MemoryBus, MemoryStore
from protocol.transport.embedded.remote.server import RemoteServer
from protocol.transport.settings import TransportSettings
from workers.app import tune
from workers.settings import WorkerSettings
from workers.worker import Worker

log = structlog.get_logger(__name__)

_WORKER: Final = "embedded"


class ManyProcesses:
    """A whole fleet on one machine: the models here, and processes that take calls.

    Args:
        count: of acceptor processes.
        gateway: of all together; its metrics port also serves the worker's metrics.
        worker: the models that it serves.
        transport: in memory, or a data folder.
        logs: format and level.

    Attributes:
        worker: the models.
        processes: the acceptors.
    """

    def __init__(
        self,
        count: int,
        gateway: GatewaySettings,
        worker: WorkerSettings,
        transport: TransportSettings,
        logs: tuple[str, str],
    ) -> None:
        registry = CollectorRegistry()
        self._transport = open_transport(transport)
        self._grace = worker.drain_grace
        self._signals = 0
        bus, store = self._transport.bus, self._transport.results
        if not isinstance(bus, MemoryBus) or not isinstance(store, MemoryStore):
            raise ConfigError("acceptor processes before a Kafka fleet are started with: penstock gateway --processes")
        self._server = RemoteServer(bus, store, self._transport.microtasks)
        settings = dataclasses.replace(worker, worker=worker.worker or _WORKER, metrics_port=None)
        self.worker = Worker(settings, self._transport, transport.names, Clock(), registry)
        # The models are loaded before it starts, and there is one worker: there is nothing to choose.
        gateway = dataclasses.replace(gateway, model_wait=0.0, routing="spread")
        self.processes = Processes(count, gateway, transport, logs, self._server.attach, registry)

    async def run(self, started: Callable[[], None]) -> int:
        """Load the models, start the acceptors, call `started`, serve until SIGTERM or SIGINT, then stop; returns the exit code.

        A second signal ends the draining.

        Raises:
            ConfigError: a model cannot be loaded, or a port or the data folder is not available.
        """
        with stop_signals() as asked:
            asked.ready = False
            await self._transport.open()
            try:
                asked.ready = await until(asked, self.worker.start())
                if not asked.ready:
                    log.info("stopped by a signal before everything was loaded")
                    return 0
                tune()
                code = await self._serve(asked, started)
                if self._signals == 1:
                    # What is left belongs to nobody who waits: calls in flight have been answered.
                    await until(
                        asked, self.worker.drain(asked.grace(self._grace)), QUICK if asked.interrupted else None
                    )
            finally:
                await self._close()
            log.info("stopped")
            return code

    async def _serve(self, asked: StopEvent, started: Callable[[], None]) -> int:
        """Until all acceptors have ended; each signal is passed on to them."""
        acceptors = asyncio.ensure_future(self.processes.run())
        ready = asyncio.ensure_future(self.processes.started())
        signalled = asyncio.ensure_future(asked.wait())
        told = False
        try:
            while not acceptors.done():
                await asyncio.wait(
                    {acceptors, signalled} | ({ready} if not told else set()), return_when=asyncio.FIRST_COMPLETED
                )
                if ready.done() and not told:
                    told = True
                    started()
                if signalled.done():
                    asked.clear()
                    self._signals += 1
                    self.processes.stop(asked.number)
                    signalled = asyncio.ensure_future(asked.wait())
            return acceptors.result()
        finally:
            for task in (ready, signalled):
                task.cancel()

    async def _close(self) -> None:
        await self._server.close()
        await self.worker.close()
        await self._transport.close()
