"""Assembles a gateway process from its transport and settings."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.metadata
import secrets
from collections.abc import Callable
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry

from gateway.background import Background
from gateway.calls.dispatcher import Dispatcher
from gateway.calls.service import Service
from gateway.durable.claims import Claims
from gateway.fleet_metrics import FleetMetrics
from gateway.metrics import GatewayMetrics
from gateway.repository.control import RepositoryControl
from gateway.rest.server import HttpServer
from gateway.rpc.server import GrpcServer
from gateway.scaling.metrics import ScalingMetrics
from gateway.settings import GatewaySettings
from protocol.errors import Unavailable
from protocol.naming import Names
from protocol.runtime import logs
from protocol.runtime.clock import Clock
from protocol.runtime.loop import spare_collector
from protocol.runtime.outages import Meanwhile
from protocol.runtime.serving import serve
from protocol.runtime.status import StatusServer
from protocol.transport import Transport

_log = structlog.get_logger("gateway")

MEANWHILE: Final = Meanwhile(
    kafka="new calls are refused with 503 until it does",
    redis="calls get no answer until it does; those that were accepted stay in Kafka",
)
"""What a gateway does while a server is away."""


class Gateway:
    """One gateway. Start it on an open transport; closing the transport is the caller's job.

    Args:
        settings: of this gateway.
        transport: carries requests out and answers in.
        names: of topics and channels.
        clock: the fleet's; `start` synchronises it with the result store's.
        registry: for its metrics.

    Attributes:
        service: the object that frontends call.
        port: of HTTP, once started.
        grpc_port: of gRPC, once started; None without it.
        metrics_port: of Prometheus, once started; None without one.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        transport: Transport,
        names: Names | None = None,
        clock: Clock | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self.settings = dataclasses.replace(settings, gateway=settings.gateway or f"g{secrets.token_hex(8)}")
        self._clock = clock or Clock()
        self._transport = transport
        self._names = names or Names()
        self._registry = registry if registry is not None else CollectorRegistry()
        self._metrics = GatewayMetrics(self._registry)
        self._fleet_metrics = FleetMetrics(self._registry)
        self._scaling_metrics = ScalingMetrics(self._registry)
        self._status = StatusServer(self._registry, self.readiness)
        self._metrics.cut = lambda: self._status.cut
        self._grpc: GrpcServer | None = None

    @property
    def port(self) -> int:
        """The HTTP port."""
        return self._http.port

    @property
    def grpc_port(self) -> int | None:
        """The gRPC port; None without gRPC."""
        return None if self._grpc is None else self._grpc.port

    @property
    def metrics_port(self) -> int | None:
        """The port of Prometheus; None without one."""
        return self._status.port

    async def start(self) -> None:
        """Listen for wake-ups, read the catalogue, then take calls.

        Raises:
            Unavailable: the result store or the broker does not answer.
            ConfigError: a port is taken.
        """
        await self._clock.resync(self._transport.results.now)
        self.service = Service(self.settings, self._transport, self._names, self._clock, self._metrics)
        self.service.log_settings.start(logs.level())
        self.service.log_settings.on_change = _switch_levels
        self._repository = RepositoryControl(self.service)
        self._dispatcher = Dispatcher(self.service)
        self._fleet_metrics.start(self.service.catalogue, self._transport.results)
        self._scaling_metrics.start(self.service.scaling)
        self._background = Background(self.service, self._repository, self._dispatcher, self._fleet_metrics)
        self._claims = Claims(self.service)
        self._http = HttpServer(self.service, self._claims, self._repository, version())
        try:
            await self._dispatcher.start()
            await self._background.start()
            await self._http.start()
            await self._serve_grpc()
            await self._status.start(self.settings.metrics_host, self.settings.metrics_port)
            self.service.metrics_at = self._status.address or self.service.metrics_at
        except BaseException:
            await self.drain()
            await self.close()
            raise
        _log.info(
            "gateway is serving", host=self.settings.host, port=self.port, grpc_port=self.grpc_port,
            gateway=self.settings.gateway,
        )  # fmt: skip

    async def drain(self) -> None:
        """Stop being ready, refuse new connections, and answer calls in flight, for at most the drain grace."""
        self.service.draining = True
        _log.info("gateway is draining", waiting=len(self.service.completion.pending))
        await asyncio.gather(self._http.drain(), self._drain_grpc())

    async def close(self) -> None:
        """Stop; calls that still wait are answered 503."""
        self.service.draining = True
        self.service.arrivals.close()
        self.service.completion.fail_all(
            Unavailable("Server is stopping before the request was answered", retry_after=1.0)
        )
        await self._http.close()
        if self._grpc is not None:
            await self._grpc.close()
        await self._claims.close()
        await self._repository.close()
        await self._background.close()
        self._fleet_metrics.stop()
        self._scaling_metrics.stop()
        await self._dispatcher.close()
        await self.service.close()
        await self._status.close()

    async def serve(self, started: Callable[[], None] = lambda: None) -> None:
        """Start, call `started`, run until SIGTERM or SIGINT, then drain and close; a second signal cuts the drain short."""
        await serve(self.start, self.close, spare_collector, started, drain=lambda _: self.drain())

    async def _serve_grpc(self) -> None:
        """Start gRPC, if it is wanted."""
        if self.settings.grpc_port is None:
            return
        self._grpc = GrpcServer(self.service, self._claims, self._repository, version())
        await self._grpc.start()

    async def _drain_grpc(self) -> None:
        if self._grpc is not None:
            await self._grpc.drain()

    async def readiness(self) -> list[str]:
        """The reasons why this gateway is not ready, a sentence each."""
        reasons = ["it is shutting down"] if self.service.draining else []
        return [*reasons, self.service.not_ready] if self.service.not_ready else reasons


def _switch_levels(settings: dict[str, Any]) -> None:
    """Make Triton's log settings real."""
    logs.switch(
        debug=settings["log_verbose_level"] > 0,
        info=settings["log_info"],
        warning=settings["log_warning"],
        error=settings["log_error"],
    )


def version() -> str:
    """The installed version of Penstock."""
    try:
        return importlib.metadata.version("penstock")
    except importlib.metadata.PackageNotFoundError:
        return "0"
