"""A minimal HTTP/1.1 client: prepared requests on keep-alive connections, answers parsed by httptools.

Invariant: one request at a time per connection; a request that finds none free waits here while its latency counts.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Final, cast
from urllib.parse import quote, urlsplit

import httptools

from loadtest.openloop import Answered, Ticket
from loadtest.payloads import Pool
from loadtest.samples import Outcome
from protocol.errors import InvalidArgument

REFUSED: Final = frozenset({429, 503})
RECONNECT_AFTER: Final = 0.1
"""Seconds before requests that could not connect are reported: a closed loop must not spin on a dead server."""
_KEPT_COMPLAINTS: Final = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """Where a model is served: `http://host:port` (what Triton calls the base URL) and the model's name."""

    host: str
    port: int
    model: str
    version: str = ""

    @classmethod
    def parse(cls, url: str, model: str, version: str = "") -> Address:
        """From a base URL.

        Raises:
            InvalidArgument: it is not `http://host[:port]`.
        """
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.path.strip("/"):
            raise InvalidArgument(f"{url!r} is not a base URL like http://127.0.0.1:8000")
        return cls(parts.hostname, parts.port or 80, model, version)

    @property
    def model_path(self) -> str:
        """The path of the model's metadata."""
        versions = f"/versions/{quote(self.version)}" if self.version else ""
        return f"/v2/models/{quote(self.model, safe='')}{versions}"

    @property
    def path(self) -> str:
        """The path of the infer call."""
        return f"{self.model_path}/infer"

    def request(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        """A whole request, ready for the socket."""
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {self.host}:{self.port}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class HttpTarget:
    """A gateway's V2 infer call (see `openloop.Target`).

    Attributes:
        complaints: the first distinct errors of requests, with their counts.
    """

    def __init__(
        self, address: Address, pool: Pool, *, headers: Mapping[str, str] | None = None, limit: int = 1024
    ) -> None:
        self.complaints: collections.Counter[str] = collections.Counter()
        self._address = address
        self._pool = pool
        self._requests = [address.request(body, {**pool.headers, **(headers or {})}) for body in pool.bodies]
        self._limit = limit
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._waiting: collections.deque[Ticket] = collections.deque()
        self._answered: Answered | None = None
        self._closed = False

    async def open(self, answered: Answered, width: int) -> None:
        """See `Target.open`; a server that does not answer yet is not an error here."""
        self._answered = answered
        await asyncio.gather(*(self._connect() for _ in range(min(width, self._limit))))

    def send(self, ticket: Ticket) -> None:
        """See `Target.send`."""
        if self._idle:
            self._idle.pop().send(ticket, self._requests[ticket.index % len(self._requests)])
        else:
            self._waiting.append(ticket)
            self._grow()

    async def close(self) -> None:
        """See `Target.close`."""
        self._closed = True
        for task in list(self._connecting):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for connection in list(self._all):
            connection.transport.abort()

    def _grow(self) -> None:
        if len(self._all) + len(self._connecting) < self._limit:
            task = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self) -> None:
        while (connection := await self._try_to_connect()) is None:
            if not self._waiting:
                return
        self._all.add(connection)
        self._reuse(connection)

    async def _try_to_connect(self) -> _Connection | None:
        """A connection; or None, after which one waiting request, if any, has failed for lack of it."""
        loop = asyncio.get_running_loop()
        try:
            transport, connection = await loop.create_connection(
                lambda: _Connection(self._free, self._lost), self._address.host, self._address.port
            )
        except OSError as exc:
            reason = f"cannot connect: {exc}".encode()
        else:
            if not transport.is_closing():
                return connection
            reason = b"cannot connect: closed at once"
        await asyncio.sleep(RECONNECT_AFTER)
        if self._waiting:
            self._end(self._waiting.popleft(), 0, reason)
        return None

    def _reuse(self, connection: _Connection) -> None:
        if self._waiting:
            ticket = self._waiting.popleft()
            connection.send(ticket, self._requests[ticket.index % len(self._requests)])
        else:
            self._idle.append(connection)

    def _free(self, connection: _Connection, ticket: Ticket, answer: _Response) -> None:
        """An answer is complete; the next request goes out before this answer is looked at."""
        if answer.keep_alive:
            self._reuse(connection)
        else:
            self._lost(connection, None, b"")
        self._end(ticket, answer.status, answer.body)

    def _lost(self, connection: _Connection, ticket: Ticket | None, reason: bytes) -> None:
        if connection not in self._all:
            return
        self._all.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        connection.transport.close()
        if self._closed:
            return
        if ticket is not None:
            self._end(ticket, 0, reason)
        if self._waiting:
            self._grow()

    def _end(self, ticket: Ticket, status: int, body: bytes) -> None:
        outcome = self._judge(ticket.index % len(self._pool), status, body)
        if outcome is not Outcome.OK:
            complaint = f"{outcome.value} {status or ''} {body[:200].decode(errors='replace')}".strip()
            if complaint in self.complaints or len(self.complaints) < _KEPT_COMPLAINTS:
                self.complaints[complaint] += 1
        if self._answered is not None:
            self._answered(ticket, outcome)

    def _judge(self, index: int, status: int, body: bytes) -> Outcome:
        if status == 200:
            return Outcome.OK if self._pool.is_right(index, body) else Outcome.WRONG
        return Outcome.REJECTED if status in REFUSED else Outcome.FAILED


@dataclasses.dataclass(slots=True)
class _Response:
    status: int
    body: bytes
    keep_alive: bool


class _Connection(asyncio.Protocol):
    """One keep-alive connection, also httptools' callback object."""

    transport: asyncio.Transport

    def __init__(
        self,
        free: Callable[[_Connection, Ticket, _Response], None],
        lost: Callable[[_Connection, Ticket | None, bytes], None],
    ) -> None:
        self._free = free
        self._lost = lost
        self._ticket: Ticket | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._complete: _Response | None = None

    def send(self, ticket: Ticket, request: bytes) -> None:
        self._ticket = ticket
        ticket.sent = time.perf_counter()
        self.transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are not registered as such

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._fail(f"not HTTP: {exc}".encode())
            return
        if self._complete is not None:
            response, self._complete = self._complete, None
            self._answer(response)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"connection lost: {exc or 'closed by the server'}".encode())

    def _fail(self, reason: bytes) -> None:
        ticket, self._ticket = self._ticket, None
        self._lost(self, ticket, reason)

    def on_message_begin(self) -> None:
        self._body.clear()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        # Handled outside the parser, which would swallow exceptions.
        self._complete = _Response(
            self._parser.get_status_code(), b"".join(self._body), self._parser.should_keep_alive()
        )

    def _answer(self, response: _Response) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is None:
            self._fail(b"an answer without a request")
        else:
            self._free(self, ticket, response)
