"""The fleet in one process: a gateway and a worker on one event loop, meeting in an embedded transport as they would in Kafka and
Redis. Nothing is short-circuited: a request goes through the log, the batcher and the fenced results.
"""

from __future__ import annotations

import dataclasses

from prometheus_client import CollectorRegistry

from gateway.app import Gateway
from gateway.settings import GatewaySettings
from protocol.clock import Clock
from protocol.transport import open_transport
from protocol.transport.settings import TransportSettings
from workers.app import tune
from workers.settings import WorkerSettings
from workers.worker import Worker


class OneProcess:
    """A whole fleet, started and stopped as one.

    Args:
        gateway: its metrics port serves the worker's metrics, too.
        worker: what it serves.
        transport: memory, or a data folder.

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
        gateway = dataclasses.replace(gateway, model_wait=0.0)  # the models are there before it
        self.gateway = Gateway(gateway, self._transport, transport.names, clock, registry)

    async def start(self) -> None:
        """Open the log, load the models, then take calls.

        Raises:
            ConfigError: a model cannot be loaded, or a port or the data folder cannot be had.
        """
        await self._transport.open()
        try:
            await self.worker.start()
            await self.gateway.start()
            tune()
        except BaseException:
            await self.worker.close()
            await self._transport.close()
            raise

    async def stop(self) -> None:
        """Answer what is in flight, then end. What waits in a durable log is served after the next start."""
        await self.gateway.drain()
        await self.worker.drain(self._grace)
        await self.gateway.close()
        await self.worker.close()
        await self._transport.close()
