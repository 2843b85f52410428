"""The status port: `/metrics`, and liveness and readiness for probes; the worker's only HTTP port, the gateway's second.

Plain GET, one request per connection. A silent connection is closed after `timeout`, or earlier if others need its slot.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from protocol.errors import ConfigError
from protocol.runtime.listening import refusal
from protocol.urls import authority

MAX_HEAD: Final = 16 * 1024
"""Bytes of request line and headers."""
MAX_CONNECTIONS: Final = 64

TEXT: Final = "text/plain; charset=utf-8"


class StatusServer:
    """Serves the registry and the readiness.

    Args:
        registry: of `/metrics`.
        readiness: the reasons why the process is not ready, a sentence each.
        timeout: seconds within which a request must arrive and its response must be sent.
        notes: what the readiness route also says, a sentence each; they change no status.
        refresh: brings the registry up to date, before each answer to `/metrics`.

    Attributes:
        port: where it listens; None while it does not.
        address: its host and port; "" while it does not listen.
        cut: connections that were closed before they had a response.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        readiness: Callable[[], Awaitable[list[str]]],
        timeout: float = 5.0,
        notes: Callable[[], list[str]] = list,
        refresh: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._notes = notes
        self._refresh = refresh
        self._registry = registry
        self._readiness = readiness
        self._timeout = timeout
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], None] = {}
        self._scraping = asyncio.Semaphore(1)
        self.port: int | None = None
        self.address = ""
        self.cut = 0

    async def start(self, host: str, port: int | None) -> None:
        """Listen, unless there is no port.

        Raises:
            ConfigError: the port is taken.
        """
        if port is None:
            return
        try:
            self._server = await asyncio.start_server(self._accept, host, port, limit=MAX_HEAD)
        except OSError as exc:
            raise ConfigError(
                f"cannot serve metrics on {authority(host, port)}: {refusal(exc, '--metrics-port', '--metrics-host')}"
            ) from None
        self.port = bound = self._server.sockets[0].getsockname()[1]
        self.address = authority(host, bound)

    async def close(self) -> None:
        """Stop listening, and close open connections; nothing if it does not listen."""
        if self._server is not None:
            self._server.close()
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)
            await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = None
        if len(self._open) > MAX_CONNECTIONS:
            next(iter(self._open)).cancel()
        try:
            async with asyncio.timeout(self._timeout):
                await self._answer(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self.cut += 1  # a probe that gave up, or a peer that sent no HTTP request
        except asyncio.CancelledError:
            self.cut += 1
            raise
        finally:
            self._open.pop(task, None)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line = head.split(b"\r\n", 1)[0].split(b" ")
        status, kind, body = await self._route(line[0], line[1].split(b"?")[0] if len(line) > 1 else b"")
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        )
        if line[0] != b"HEAD":
            writer.write(body)
        await writer.drain()

    async def _route(self, method: bytes, path: bytes) -> tuple[str, str, bytes]:
        if method not in (b"GET", b"HEAD"):
            return "405 Method Not Allowed", TEXT, b"only GET\n"
        if path == b"/metrics":
            # In a thread: with a hundred models this takes tens of milliseconds.
            async with self._scraping:
                if self._refresh is not None:
                    await self._refresh()
                return "200 OK", CONTENT_TYPE_LATEST, await asyncio.to_thread(generate_latest, self._registry)
        if path == b"/v2/health/live":
            return "200 OK", TEXT, b""
        if path == b"/v2/health/ready":
            problems = await self._readiness()
            body = "\n".join([*problems, *self._notes()])
            return ("503 Service Unavailable" if problems else "200 OK"), TEXT, body.encode()
        return "404 Not Found", TEXT, b"/metrics, /v2/health/live or /v2/health/ready\n"
