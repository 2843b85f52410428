"""The HTTP server: uvicorn's, with `InferConnection` as protocol, on a socket that is bound here."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import ssl
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Final, cast

from gateway.calls.service import Service
from gateway.durable.claims import Claims
from gateway.durable.requests import Requests
from gateway.repository.control import RepositoryControl
from gateway.rest import pem
from gateway.rest.access import Access
from gateway.rest.connection import InferConnection
from gateway.rest.exchange import Endpoint, QueuedResponse
from gateway.rest.framing import Hosts
from gateway.rest.heads import Heads
from gateway.rest.inference import InferFrontend
from gateway.rest.listening import bind
from gateway.rest.origins import Origins
from gateway.rest.routes import Routes
from gateway.rest.turn import Turn
from gateway.rest.unread import Unread
from gateway.rest.uvicorn_internals import Config, Server
from gateway.restrictions import Restrictions

_TICKS: Final = 5
"""Checks per timeout of an idle connection."""
_ACCEPTS: Final = 16
"""Connections accepted per turn of the event loop: libuv accepts one per listening socket (libuv pull request 3696). Under load
a turn takes milliseconds, and with one socket the last of 64 new connections waited for 64 turns."""


class HttpServer:
    """Listens, drains and closes.

    Attributes:
        port: of its socket, once started.
        routes: all but those of calls.
    """

    def __init__(self, service: Service, claims: Claims, repository: RepositoryControl, version: str) -> None:
        self._settings = settings = service.settings
        origins = Origins(settings.cors_origin)
        hosts = Hosts((settings.host, *settings.allowed_hosts), origins)
        access = Access(settings.api_key, Restrictions(settings.http_restricted_api), hosts, origins)
        self._frontend = InferFrontend(service, claims, access)
        self.routes = routes = Routes(
            service, repository, Requests(service, claims), access, self._frontend.json, version
        )
        self._outgoing = Turn(QueuedResponse.write, service.transport.microtasks.add)
        self._heads = Heads(service.budgets.whole, service.catalogue.known)
        endpoint = Endpoint(
            self._frontend, settings.max_header_bytes, settings.max_connections, self._connection_closed, self._outgoing,
            service.budgets, Unread(service.budgets.unread), service.metrics.refused,
            access.hosts, self._heads, settings.max_body_bytes, origins if origins.open else None,
        )  # fmt: skip
        config = Config(
            routes.app,
            http=cast("Any", functools.partial(InferConnection, endpoint=endpoint)),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ssl_certfile=settings.tls_certificate or None,
            ssl_keyfile=settings.tls_key or None,
            ssl_ca_certs=settings.tls_client_ca or None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if settings.tls_client_ca else ssl.CERT_NONE,
        )
        try:
            config.load()
        except OSError as error:  # also of ssl
            raise pem.refusal(error, settings.tls_certificate, settings.tls_key, settings.tls_client_ca) from None
        self._server = Server(config)
        self._server.lifespan = config.lifespan_class(config)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._all_closed = asyncio.Event()
        self.port = settings.http_port

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address is taken or invalid.
        """
        settings = self._settings
        listener = bind(settings.host, settings.http_port, shared=settings.shared_ports)
        self.port = listener.getsockname()[1]
        await self._server.startup(sockets=[listener, *[listener.dup() for _ in range(_ACCEPTS - 1)]])
        period = min(settings.keep_alive, settings.read_timeout) / _TICKS
        self._every(1.0, self._renew_date)
        self._every(
            period, self._tick, math.ceil(settings.keep_alive / period), math.ceil(settings.read_timeout / period)
        )

    async def drain(self) -> None:
        """Refuse new connections and answer requests in flight, for at most the drain grace."""
        state = self._server.server_state
        for server in self._server.servers if self._server.started else ():
            server.close()
        for connection in list(state.connections):
            connection.shutdown()
        if state.connections:
            self._all_closed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.drain_grace):
                    await self._all_closed.wait()

    async def close(self) -> None:
        """Close the connections left after `drain`."""
        for timer in self._timers.values():
            timer.cancel()
        await self._frontend.close()
        self._outgoing.run()
        state = self._server.server_state
        for connection in list(state.connections):
            if cast("InferConnection", connection).flow.write_paused:
                connection.transport.abort()
            else:
                connection.transport.close()
        for task in state.tasks:
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)

    def _connection_closed(self) -> None:
        if not self._server.server_state.connections:
            self._all_closed.set()

    def _every(self, period: float, call: Callable[..., None], *arguments: int) -> None:
        """Call a function now and after every period, until `close`."""
        call(*arguments)
        self._timers[call.__name__] = asyncio.get_running_loop().call_later(
            period, self._every, period, call, *arguments
        )

    def _renew_date(self) -> None:
        self._server.server_state.default_headers = [(b"date", formatdate(usegmt=True).encode())]

    def _tick(self, keep_alive_ticks: int, read_ticks: int) -> None:
        for connection in list(self._server.server_state.connections):
            cast("InferConnection", connection).tick(keep_alive_ticks, read_ticks)
