"""Assembles a scaler process from its transport and settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.scaler.knowledge import Knowledge
from gateway.scaler.server import ScalerServer
from gateway.scaler.settings import ScalerSettings
from gateway.scaling.metrics import ScalingMetrics
from protocol.naming import Names
from protocol.runtime.clock import Clock
from protocol.runtime.loop import spare_collector
from protocol.runtime.outages import Meanwhile
from protocol.runtime.serving import serve
from protocol.runtime.status import StatusServer
from protocol.transport import Transport

_log = structlog.get_logger("gateway.scaler")

MEANWHILE: Final = Meanwhile(
    kafka="nothing is scaled once the last numbers of waiting requests are too old",
    redis="nothing is scaled once the workers' last heartbeats are too old",
)
"""What a scaler does while a server is away."""


class Scaler:
    """One scaler. Start it on an open transport; closing the transport is the caller's job. Any number may run.

    Args:
        settings: of this scaler.
        transport: of the fleet.
        names: of topics and channels.
        clock: the fleet's; `start` synchronises it with the store's.
    """

    def __init__(
        self, settings: ScalerSettings, transport: Transport, names: Names | None = None, clock: Clock | None = None
    ) -> None:
        self._settings = settings
        self._registry = CollectorRegistry()
        self._metrics = ScalingMetrics(self._registry)
        self._knowledge = Knowledge(settings, transport, names or Names(), clock or Clock())
        self._server = ScalerServer(settings, self._knowledge)
        self._status = StatusServer(self._registry, self._readiness)
        self._registry.register(_OwnMetrics(self._knowledge, self._server))

    @property
    def port(self) -> int:
        """The gRPC port."""
        return self._server.port

    @property
    def metrics_port(self) -> int | None:
        """The port of Prometheus; None without one."""
        return self._status.port

    async def start(self) -> None:
        """Follow the fleet, then take calls.

        Raises:
            Unavailable: the store does not answer.
            ConfigError: a port is taken.
        """
        try:
            await self._knowledge.start()
            self._metrics.start(self._knowledge.view)
            await self._server.start()
            await self._status.start(self._settings.metrics_host, self._settings.metrics_port)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop."""
        self._metrics.stop()
        await self._server.close()
        await self._knowledge.close()
        await self._status.close()

    async def serve(self, started: Callable[[], None] = lambda: None) -> None:
        """Start, call `started`, run until SIGTERM or SIGINT, then close."""
        await serve(self.start, self.close, spare_collector, started)

    async def _readiness(self) -> list[str]:
        problem = self._knowledge.problem
        return [problem] if problem else []


class _OwnMetrics(Collector):
    """What the scaler says of itself."""

    def __init__(self, knowledge: Knowledge, server: ScalerServer) -> None:
        self._knowledge = knowledge
        self._server = server

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(
            "penstock_scaler_hints", "Hints of gateways about requests without a worker.", self._knowledge.hints
        )
        yield CounterMetricFamily(
            "penstock_scaler_pushes", "Messages of StreamIsActive that said something new.", self._server.pushes
        )
        yield GaugeMetricFamily(
            "penstock_scaler_ready", "1 while enough is known to answer.", float(not self._knowledge.problem)
        )
