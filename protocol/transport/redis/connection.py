"""One socket to Redis that many coroutines share: redis-py's connection, with pipelined requests and futures for replies.

Connecting, TLS, `AUTH`, `SELECT`, URLs, packing and parsing are redis-py's. Its pools and commands serve one caller at a time; this
serves all callers at once (measured, docs/decisions/0010). RESP2, because pushes and replies then have the same order with old and
new servers.

Invariants: no task reads or writes, so that a cancelled caller interrupts neither. Replies come in the order of requests: a
cancelled caller's reply is dropped, and never goes to another caller.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.exceptions import RedisError

from protocol.transport.redis.address import Address
from protocol.transport.redis.redis_internals import (
    AbstractConnection,
    Socket,
    connect,
    disconnect,
    error_code,
    first_reply,
    host_and_port,
    is_error_reply,
    pack_command,
)
from protocol.transport.redis.sentinel import SentinelClient

Argument = str | bytes | int
Reply = Any
"""A RESP2 value from redis-py: bytes, int, None, a list of replies, or a `RedisError` as a value."""

FOLLOW: Final = 0.5
"""Seconds between two checks with the Sentinels that the primary is still the same."""
PRIMARY_WITHIN: Final = 2.0
"""Seconds within which a primary named by Sentinels must reply; Sentinels take about as long to notice that it hangs."""


class ConnectionLost(Exception):
    """The connection was lost: the request may or may not have been executed.

    Attributes:
        silent: the server accepted the request and did not reply in time; an immediate retry would only add to its load.
    """

    def __init__(self, message: str, *, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


def described(error: BaseException) -> str:
    """An error's text; its type if it has none (`TimeoutError`)."""
    return str(error) or type(error).__name__


class _Exchange:
    """A request that waits for its replies."""

    __slots__ = ("deadline", "future", "replies", "wanted")

    def __init__(self, future: asyncio.Future[list[Reply]], wanted: int, deadline: float) -> None:
        self.future = future
        self.wanted = wanted
        self.deadline = deadline
        self.replies: list[Reply] = []


class Connection:
    """A connected, authenticated socket; never reconnects.

    Args:
        connection: of redis-py's, open; nothing else reads from it or writes to it.
        timeout: seconds without a reply after which the server counts as dead.
        on_push: gets every reply that no `roundtrip` waits for: messages of subscribed channels, and replies to `push`.
        sentinels: the client of the Sentinels that named this primary; closed with the connection.

    Attributes:
        alive: whether requests can be sent.
        closed: done once the socket is closed.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        timeout: float,
        on_push: Callable[[Reply], None] | None = None,
        sentinels: SentinelClient | None = None,
    ) -> None:
        self._redis = connection
        self._timeout = timeout
        self._on_push = on_push
        self._sentinels = sentinels
        self._loop = asyncio.get_running_loop()
        self._exchanges: collections.deque[_Exchange] = collections.deque()
        self._watch: asyncio.TimerHandle | None = None
        self._following = None if sentinels is None else self._loop.create_task(self._follow(sentinels))
        self._closing: asyncio.Task[None] | None = None
        self.alive = True
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._socket = Socket(connection, self._on_reply, self._on_lost)

    @classmethod
    async def open(cls, address: Address, timeout: float, on_push: Callable[[Reply], None] | None = None) -> Connection:
        """Connect, log in and select the database; with Sentinels, on the current primary.

        Raises:
            ConnectionLost: unreachable, or no primary.
            RedisError: refused (`LOADING`, `WRONGPASS`, …); see `error_code`.
        """
        sentinels = address.sentinel_client()
        try:
            return cls(await _connected(address, sentinels, timeout), timeout, on_push, sentinels)
        except BaseException as exc:
            if sentinels is not None:
                await sentinels.close()
            if not isinstance(exc, RedisError | OSError):
                raise
            # For a unix socket, redis-py raises an error reply as a cause.
            refused = next((error for error in (exc, exc.__cause__) if is_error_reply(error)), None)
            raise refused or ConnectionLost(described(exc)) from None

    async def roundtrip(self, packed: bytes, wanted: int = 1) -> list[Reply]:
        """Send packed commands that have `wanted` replies together.

        Raises:
            ConnectionLost: no reply; the commands may or may not have been executed.
        """
        if not self.alive:
            raise ConnectionLost("the connection to Redis is closed")
        exchange = _Exchange(self._loop.create_future(), wanted, self._loop.time() + self._timeout)
        self._exchanges.append(exchange)
        if self._watch is None:
            self._watch = self._loop.call_at(exchange.deadline, self._check)
        self.push(packed)
        return await exchange.future

    def push(self, packed: bytes) -> None:
        """Send a command whose reply goes to `on_push` (`SUBSCRIBE`)."""
        if self.alive:
            self._socket.write(packed)

    def close(self, reason: str = "the connection to Redis was closed", *, silent: bool = False) -> None:
        """Close the socket; requests that wait for a reply get `ConnectionLost`."""
        if not self.alive:
            return
        self.alive = False
        if self._watch is not None:
            self._watch.cancel()
        for exchange in self._exchanges:
            if not exchange.future.done():
                exchange.future.set_exception(ConnectionLost(reason, silent=silent))
        self._exchanges.clear()
        self._closing = self._loop.create_task(self._disconnect(nowait=silent))

    async def _disconnect(self, nowait: bool) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        try:
            with contextlib.suppress(RedisError, OSError):
                await disconnect(self._redis, nowait=nowait)
            if self._sentinels is not None:
                await self._sentinels.close()
        finally:
            self.closed.set_result(None)

    async def _follow(self, sentinels: SentinelClient) -> None:
        """Close once the Sentinels name another primary: the old one may hang, or return and accept writes that are then lost."""
        primary = host_and_port(self._redis)
        while True:
            await asyncio.sleep(FOLLOW)
            with contextlib.suppress(RedisError, OSError):
                if (named := await sentinels.primary()) != primary:
                    self.close(f"the primary is {named[0]}:{named[1]} now")
                    return

    def _on_lost(self, error: Exception) -> None:
        self.close(f"the connection to Redis was lost: {described(error)}")

    def _on_reply(self, reply: Reply) -> None:
        """Hand out a reply; one that no request waits for is a push message."""
        if self._sentinels is not None and isinstance(reply, RedisError) and _demoted(reply):
            raise reply
        if not self._exchanges:
            if self._on_push is not None:
                self._on_push(reply)
            return
        exchange = self._exchanges[0]
        exchange.replies.append(reply)
        if len(exchange.replies) == exchange.wanted:
            self._exchanges.popleft()
            if not exchange.future.done():
                exchange.future.set_result(exchange.replies)

    def _check(self) -> None:
        """One timer for all requests: the oldest request has the earliest deadline."""
        self._watch = None
        if not self._exchanges:
            return
        if self._exchanges[0].deadline > self._loop.time():
            self._watch = self._loop.call_at(self._exchanges[0].deadline, self._check)
        else:
            self.close(f"Redis gave no answer within {self._timeout:g} s", silent=True)


async def _connected(address: Address, sentinels: SentinelClient | None, timeout: float) -> AbstractConnection:
    """An open connection that has replied. A server named by Sentinels must itself report the role of a primary."""
    primary = None
    if sentinels is not None:
        primary, timeout = await sentinels.primary(), min(timeout, PRIMARY_WITHIN)
    connection = address.connection(timeout, primary)
    try:
        async with asyncio.timeout(timeout):
            await connect(connection)
            answer = await first_reply(connection, "PING" if primary is None else "ROLE")
            if primary is not None and answer[0] != b"master":
                raise ConnectionError(f"{primary[0]}:{primary[1]} is not a primary yet")
    except BaseException:
        with contextlib.suppress(RedisError, OSError):
            await disconnect(connection, nowait=True)
        raise
    return connection


def _demoted(reply: RedisError) -> bool:
    """Whether a server reports that it is a replica."""
    return error_code(reply) in {"READONLY", "MASTERDOWN"}


def pack_commands(commands: Sequence[Sequence[Argument]]) -> bytes:
    """Several commands for one round trip."""
    return b"".join(map(pack_command, commands))
