"""The fleet in one process: a gateway and a worker on one event loop, connected by an embedded transport instead of Kafka and
Redis. Nothing is short-circuited: a request goes through the log, the batcher and the fenced results.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from gateway.app import Gateway
from gateway.settings import GatewaySettings
from protocol.runtime.clock import Clock
from protocol.runtime.serving import serve
from protocol.transport import open_transport
from protocol.transport.settings import TransportSettings
from workers.app import tune
from workers.settings import WorkerSettings
from workers.worker import Worker


class OneProcess:
    """A whole fleet, started and stopped together.

    Args:
        gateway: its metrics port also serves the worker's metrics.
        worker: the models that it serves.
        transport: in memory, or a data folder.

    Attributes:
        gateway, worker: the two halves.
    """

    def __init__(self, gateway: GatewaySettings, worker: WorkerSettings, transport: TransportSettings) -> None:
        registry, clock = CollectorRegistry(), Clock()
        self._transport = open_transport(transport)
        self._grace = worker.drain_grace
        self.worker = Worker(
            dataclasses.replace(worker, worker=worker.worker or "embedded", metrics_port=None),
            self._transport,
            transport.names,
            clock,
            registry,
        )
        gateway = dataclasses.replace(gateway, model_wait=0.0)  # the models are loaded before it starts
        self.gateway = Gateway(gateway, self._transport, transport.names, clock, registry)

    async def start(self) -> None:
        """Open the log, load the models, then take calls.

        Raises:
            ConfigError: a model cannot be loaded, or a port or the data folder is not available.
        """
        await self._transport.open()
        try:
            await self.worker.start()
            await self.gateway.start()
        except BaseException:
            await self.worker.close()
            await self._transport.close()
            raise

    async def run(self, started: Callable[[], None]) -> None:
        """Start, call `started`, serve until SIGTERM or SIGINT, then stop; a second signal ends the draining.

        Raises:
            ConfigError: see `start`.
        """
        await serve(self.start, self._close, tune, started, drain=lambda asked: self._drain(asked.grace(self._grace)))

    async def stop(self) -> None:
        """Answer the requests in flight, then stop. Requests in a durable log are served after the next start."""
        await self._drain(self._grace)
        await self._close()

    async def _drain(self, grace: float) -> None:
        await self.gateway.drain()
        await self.worker.drain(grace)

    async def _close(self) -> None:
        await self.gateway.close()
        await self.worker.close()
        await self._transport.close()
