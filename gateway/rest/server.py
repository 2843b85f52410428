"""The HTTP server: uvicorn's, with our connections, on a socket of ours."""

from __future__ import annotations

import asyncio
import functools
import math
import socket
from typing import Any, Final, cast

import structlog
import uvicorn

from gateway.claims import Claims
from gateway.rest.access import Access
from gateway.rest.connection import InferConnection
from gateway.rest.inference import InferDoor
from gateway.rest.routes import Routes
from gateway.service import Service
from protocol.errors import ConfigError

_TICKS: Final = 5
"""How finely the time of idle connections is told."""
_BACKLOG: Final = 2048

_log = structlog.get_logger("gateway.rest")


class HttpServer:
    """Listens, and ends in order.

    Attributes:
        port: that it listens on, once started.
    """

    def __init__(self, service: Service, claims: Claims, version: str) -> None:
        self._settings = settings = service.settings
        access = Access(settings.api_key)
        self._door = InferDoor(service, claims, access)
        routes = Routes(service, claims, access, version)
        protocol = functools.partial(
            InferConnection,
            door=self._door,
            max_header_bytes=settings.max_header_bytes,
            max_connections=settings.max_connections,
        )
        config = uvicorn.Config(
            routes.app,
            http=cast("Any", protocol),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ssl_certfile=settings.tls_certificate or None,
            ssl_keyfile=settings.tls_key or None,
            timeout_graceful_shutdown=math.ceil(settings.drain_grace),
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        self._socket: socket.socket | None = None
        self._main: asyncio.Task[None] | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self.port = settings.http_port

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        self._socket = bind(self._settings.host, self._settings.http_port)
        self.port = self._socket.getsockname()[1]
        await self._server.startup(sockets=[self._socket])
        self._main = asyncio.get_running_loop().create_task(self._server.main_loop())
        self._tick()

    async def drain(self) -> None:
        """Take no new connection, answer what was begun, close; not longer than the drain grace."""
        self._server.should_exit = True
        if self._main is not None:
            await self._main
            await self._server.shutdown(sockets=[self._socket] if self._socket else None)
        if self._ticker is not None:
            self._ticker.cancel()

    async def close(self) -> None:
        """End what is left after `drain`."""
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        await self._door.close()

    def _tick(self) -> None:
        settings = self._settings
        period = min(settings.keep_alive, settings.read_timeout) / _TICKS
        keep_alive_ticks = math.ceil(settings.keep_alive / period)
        read_ticks = math.ceil(settings.read_timeout / period)
        for connection in list(self._server.server_state.connections):
            cast("InferConnection", connection).tick(keep_alive_ticks, read_ticks)
        self._ticker = asyncio.get_running_loop().call_later(period, self._tick)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: naming the address and what the system said.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error}; choose another --http-port") from None
    return listener
