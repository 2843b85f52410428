"""Connections of the blocking client: one per thread that calls at the same time, kept for the next call.

Invariants: a connection that the server has closed, or that lay idle for `IDLE` seconds, gets no request; one that has not
returned a whole answer is closed; a process that was forked uses none of its parent's.
"""

from __future__ import annotations

import functools
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from penstock.client import requests
from penstock.client.environment import Route
from penstock.client.exchange import CLOSED, Answered, AnswerReader, connect_head, tls_advice, tunnel_status
from penstock.client.retrying import Unreached
from protocol.errors import DeadlineExceeded, InvalidArgument

CONNECT_TIMEOUT: Final = 10.0
IDLE: Final = 15.0
"""Seconds after which an idle connection is not used again: whatever stands in between may have dropped it."""
KEPT: Final = 32
"""Idle connections that are kept."""
READ: Final = 256 * 1024
_LONGEST: Final = 1e6
"""Seconds that a socket's timeout can express on every system."""


class _HasFileno(Protocol):
    def fileno(self) -> int:
        """The descriptor."""


class _Connection:
    """A connection, and when it was last used."""

    def __init__(self, route: Route, most: int, until: float | None) -> None:
        self._url = route.url
        self._socket = _open(route, until)
        self._poll = poll_of(self._socket)
        self._timeout: float | None = -1.0
        self.reader = AnswerReader(route.url, most)
        self.used = 0.0

    def close(self) -> None:
        self._socket.close()

    def stale(self, now: float) -> bool:
        """Whether the server has closed it, or said something unasked."""
        if now - self.used > IDLE:
            return True
        return bool(self._poll())

    def call(self, data: bytes, until: float | None) -> Answered:
        try:
            self._wait_until(until)
            self._socket.sendall(data)
        except TimeoutError:
            raise
        except OSError as error:  # it may have answered and closed before it read all
            if (answered := self._last_words(until)) is not None:
                return answered
            raise Unreached(f"{self._url} broke the connection: {error}", sent=True) from None
        return self._read(until)

    def _read(self, until: float | None) -> Answered:
        while True:
            self._wait_until(until)
            try:
                data = self._socket.recv(READ)
            except TimeoutError:
                raise
            except OSError as error:
                raise Unreached(f"{self._url} broke the connection: {error}", sent=True) from None
            answered = self.reader.feed(data) if data else self.reader.ended()
            if answered is not None:
                return answered
            if not data:
                raise Unreached(f"{self._url} {CLOSED}{'' if self.used else tls_advice(self._url)}", sent=True)

    def _last_words(self, until: float | None) -> Answered | None:
        try:
            return self._read(until)
        except Unreached:
            return None

    def _wait_until(self, until: float | None) -> None:
        timeout = None if until is None else min(_left(until), _LONGEST)
        if timeout != self._timeout:
            self._socket.settimeout(timeout)
            self._timeout = timeout


def poll_of(connected: _HasFileno) -> Callable[[], Sequence[object]]:
    """Returns something if there is anything to read now."""
    if not hasattr(select, "poll"):
        return lambda: select.select([connected], [], [], 0)[0]
    poll = select.poll()
    poll.register(connected, select.POLLIN)
    return functools.partial(poll.poll, 0)


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _open(route: Route, until: float | None) -> socket.socket:
    """A socket to the gateway, through its proxy and with TLS.

    Raises:
        Unreached: nothing was sent.
    """
    made = _connect(route, until)
    try:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if route.tunnelled:
            _tunnel(made, route)
        if route.tls is not None:
            made = route.tls.wrap_socket(made, server_hostname=route.address.host)
    except OSError as error:
        made.close()
        raise Unreached(route.failed(error), sent=False) from None
    except BaseException:
        made.close()
        raise
    return made


def _connect(route: Route, until: float | None) -> socket.socket:
    """A socket to the first of the route's hosts that takes it.

    Raises:
        Unreached: none does; with the first one's reason.
    """
    failures: list[OSError] = []
    for host in route.hosts:
        soon = CONNECT_TIMEOUT if until is None else min(CONNECT_TIMEOUT, _left(until))
        try:
            return socket.create_connection((host, route.peer.port), soon)
        except OSError as error:
            failures.append(error)
    raise Unreached(route.failed(failures[0]), sent=False) from None


def _tunnel(made: socket.socket, route: Route) -> None:
    assert route.proxy is not None
    made.sendall(connect_head(route.address, route.proxy))
    head = b""
    while (status := tunnel_status(head)) is None:
        data = made.recv(1)  # not a byte beyond the head
        if not data:
            raise ConnectionError("it closed the connection")
        head += data
    if status != 200:
        raise ConnectionError(f"it refused the tunnel with status {status}")


class BlockingConnections:
    """Makes calls, from any thread.

    Args:
        route: the gateway.
        most: bytes of an answer's body.
    """

    def __init__(self, route: Route, most: int) -> None:
        self._route = route
        self._most = most
        self._idle: list[_Connection] = []
        self._process = os.getpid()
        self._closed = False

    def send(self, request: requests.Request, until: float | None) -> Answered:
        """The answer to a request, if it is not an error.

        Args:
            request: the request.
            until: on `time.monotonic`; None waits for ever.

        Raises:
            Unreached: there is no answer.
            DeadlineExceeded: there is none in time.
            FleetError: the answer is an error, or none of this protocol, or too large.
        """
        head = self._route.heads.request(request.method, request.path, request.headers, len(request.body))
        answered = self.call(head + request.body, until)
        requests.check(answered.status, answered.headers, answered.body, self._route.url)
        return answered

    def call(self, data: bytes, until: float | None) -> Answered:
        """Send a request and wait for its answer.

        Args:
            data: head and body.
            until: on `time.monotonic`; None waits for ever.

        Raises:
            Unreached: there is no answer.
            DeadlineExceeded: there is none in time.
            FleetError: the answer is not HTTP, or too large.
        """
        if self._closed:
            raise InvalidArgument("this client is closed: make a new one")
        begun = time.monotonic()
        connection = None
        try:
            connection = self._take(begun) or _Connection(self._route, self._most, until)
            answered = connection.call(data, until)
            if connection.reader.reusable:
                self._keep(connection)
                connection = None
            return answered
        except TimeoutError:
            waited = time.monotonic() - begun
            raise DeadlineExceeded(f"{self._route.url} gave no answer within {waited:.3g} s") from None
        finally:
            if connection is not None:
                connection.close()

    def _take(self, now: float) -> _Connection | None:
        if self._process != os.getpid():
            self._process, self._idle = os.getpid(), []
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread took it
                return None
            if not connection.stale(now):
                return connection
            connection.close()
        return None

    def _keep(self, connection: _Connection) -> None:
        connection.used = time.monotonic()
        self._idle.append(connection)
        if self._closed or len(self._idle) > KEPT:
            self._idle.pop(0).close()

    def close(self) -> None:
        """Close the idle connections; calls in flight end by themselves."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
