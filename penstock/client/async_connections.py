"""Connections of the asyncio client, kept for the next call.

Invariants: as for the blocking client's; and a cancelled call closes its connection, by which the gateway knows. The connections
belong to one event loop; the next loop, after that one was closed, gets its own.
"""

from __future__ import annotations

import asyncio
import collections
import os
import socket
import ssl
import time
from typing import Final, cast

from penstock.client import requests
from penstock.client.blocking_connections import CONNECT_TIMEOUT, IDLE, poll_of
from penstock.client.environment import Route
from penstock.client.exchange import CLOSED, Answered, AnswerReader, connect_head, tls_advice, tunnel_status
from penstock.client.retrying import Unreached
from protocol.errors import DeadlineExceeded, FleetError, InvalidArgument

_FRESH: Final = 0.05
"""Seconds after its last answer for which a connection is used without a look at it, which is a system call."""


class _Tunnel(asyncio.Protocol):
    """Waits for the proxy's answer."""

    def __init__(self) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._head = b""

    def data_received(self, data: bytes) -> None:
        self._head += data
        try:
            status = tunnel_status(self._head)
        except FleetError as error:
            self._end(error)
            return
        if status is not None and not self.status.done():
            self.status.set_result(status)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error or ConnectionError("it closed the connection"))

    def _end(self, error: Exception) -> None:
        if not self.status.done():
            self.status.set_exception(error)


class _Connection(asyncio.Protocol):
    """A connection with at most one call."""

    def __init__(self, url: str, most: int) -> None:
        self._url = url
        self._reader = AnswerReader(url, most)
        self._answer: asyncio.Future[Answered] | None = None
        self.transport: asyncio.Transport | None = None
        self.lost = False
        self.used = 0.0

    @property
    def reusable(self) -> bool:
        """Whether it can take another call."""
        return (
            self._reader.reusable
            and not self.lost
            and self.transport is not None
            and not self.transport.get_write_buffer_size()
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def stale(self, now: float) -> bool:
        """Whether the server has closed it, which the event loop may not have seen yet if it was busy or stood still."""
        if self.lost or self.transport is None:
            return True
        if now - self.used < _FRESH:
            return False
        made = self.transport.get_extra_info("socket")
        return made is not None and bool(poll_of(made)())

    def call(self, data: bytes, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Answered]:
        self._answer = loop.create_future()
        assert self.transport is not None
        self.transport.write(data)
        return self._answer

    def abort(self) -> None:
        self.lost = True
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # it speaks unasked
            self.abort()
            return
        try:
            answered = self._reader.feed(data)
        except FleetError as error:
            self._fail(error)
            self.abort()
            return
        if answered is not None:
            self._finish(answered)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if self._answer is None:
            return
        if error is None and (answered := self._reader.ended()) is not None:
            self._finish(answered)
            return
        closed = CLOSED + ("" if self.used else tls_advice(self._url))
        why = f"broke the connection: {error}" if error else closed
        self._fail(Unreached(f"{self._url} {why}", sent=True))

    def _finish(self, answered: Answered) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result(answered)

    def _fail(self, error: Exception) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)


class AsyncConnections:
    """Makes calls on the running event loop.

    Args:
        route: the gateway.
        most: bytes of an answer's body.
        count: calls in flight at once; more wait in their order.
    """

    def __init__(self, route: Route, most: int, count: int) -> None:
        self._route = route
        self._most = most
        self._count = count
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._closed = False

    def _bind(self) -> asyncio.AbstractEventLoop:
        """Belong to the running loop from now on; returns it.

        Raises:
            InvalidArgument: the client is closed, or belongs to another loop that still runs.
        """
        if self._closed:
            raise InvalidArgument("this client is closed: make a new one")
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return loop
        if self._loop is not None and not self._loop.is_closed() and self._process == os.getpid():
            raise InvalidArgument("this client is used by another event loop: make one for each loop")
        self._loop = loop
        self._process = os.getpid()
        self._room = asyncio.Semaphore(self._count)
        self._idle: collections.deque[_Connection] = collections.deque()
        self._open: set[_Connection] = set()
        return loop

    async def send(self, request: requests.Request, until: float | None) -> Answered:
        """The answer to a request, if it is not an error; see `BlockingConnections.send`."""
        head = self._route.heads.request(request.method, request.path, request.headers, len(request.body))
        answered = await self.call(head + request.body, until)
        requests.check(answered.status, answered.headers, answered.body, self._route.url)
        return answered

    async def call(self, data: bytes, until: float | None) -> Answered:
        """Send a request and wait for its answer; see `BlockingConnections.call`."""
        loop = self._bind()
        if until is None:
            return await self._call(data, loop)
        begun = time.monotonic()
        try:
            async with asyncio.timeout(until - begun):
                return await self._call(data, loop)
        except TimeoutError:
            waited = time.monotonic() - begun
            raise DeadlineExceeded(f"{self._route.url} gave no answer within {waited:.3g} s") from None

    async def _call(self, data: bytes, loop: asyncio.AbstractEventLoop) -> Answered:
        async with self._room:
            connection = self._take() or await self._connect()
            try:
                answered = await connection.call(data, loop)
            except BaseException:
                self._drop(connection)
                raise
            if connection.reusable and not self._closed:
                connection.used = time.monotonic()
                self._idle.append(connection)
            else:
                self._drop(connection)
            return answered

    def _take(self) -> _Connection | None:
        """The idle connection that was used last; older ones age and go."""
        if self._closed:
            raise InvalidArgument("this client is closed: make a new one")
        now = time.monotonic()
        while self._idle and now - self._idle[0].used > IDLE:
            self._drop(self._idle.popleft())
        while self._idle:
            connection = self._idle.pop()
            if not connection.stale(now):
                return connection
            self._drop(connection)
        return None

    def _drop(self, connection: _Connection) -> None:
        self._open.discard(connection)
        connection.abort()

    async def _connect(self) -> _Connection:
        """A new connection, through the proxy and with TLS.

        Raises:
            Unreached: nothing was sent.
        """
        connection = _Connection(self._route.url, self._most)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._reach(connection)
        except (OSError, TimeoutError) as error:
            connection.abort()
            raise Unreached(self._route.failed(error), sent=False) from None
        except BaseException:
            connection.abort()
            raise
        assert connection.transport is not None
        if (made := connection.transport.get_extra_info("socket")) is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._open.add(connection)
        return connection

    async def _reach(self, connection: _Connection) -> None:
        loop, route = asyncio.get_running_loop(), self._route
        peer, tls = route.peer, route.tls
        if not route.tunnelled:
            name = route.address.host if tls is not None else None
            failures: list[OSError] = []
            for host in route.hosts:
                try:
                    await loop.create_connection(lambda: connection, host, peer.port, ssl=tls, server_hostname=name)
                    return
                except (ssl.SSLError, TimeoutError):
                    raise
                except OSError as error:
                    failures.append(error)
            raise failures[0]
        assert route.proxy is not None
        assert tls is not None
        transport, tunnel = await loop.create_connection(_Tunnel, peer.host, peer.port)
        try:
            transport.write(connect_head(route.address, route.proxy))
            if (status := await tunnel.status) != 200:
                raise ConnectionError(f"it refused the tunnel with status {status}")
            secured = await loop.start_tls(transport, connection, tls, server_hostname=route.address.host)
            if secured is None:
                raise ConnectionError("it closed the connection")
        except BaseException:
            transport.abort()
            raise
        connection.connection_made(secured)

    async def close(self) -> None:
        """Close all connections; calls in flight fail with `Unreached`."""
        self._closed = True
        if self._loop is not asyncio.get_running_loop() or self._process != os.getpid():
            return
        for connection in tuple(self._open):
            self._drop(connection)
        self._idle.clear()
        await asyncio.sleep(0)  # lets the transports close their sockets
