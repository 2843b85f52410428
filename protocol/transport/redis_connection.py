"""One socket to Redis that many coroutines share: redis-py's connection, with requests pipelined and replies in futures.

Connecting, TLS, `AUTH`, `SELECT`, URLs, packing and parsing are redis-py's; what its pools and commands would do, one caller
at a time, is done here for all callers at once (measured, docs/decisions). RESP2, because pushes and replies then have one
order for old and new servers.

Invariants: one task reads and one writes, so a caller that is cancelled interrupts neither. Replies come in the order of the
requests, so it leaves its place in the queue, never its reply to somebody else.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from redis.asyncio.connection import AbstractConnection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.asyncio.connection import Connection as TcpConnection
from redis.connection import HiredisRespSerializer
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from protocol.errors import ConfigError

Argument = str | bytes | int
Reply = Any
"""What redis-py makes of RESP2: bytes, int, None, a list of replies, or a `RedisError` as a value."""

_PACKER: Final[Any] = HiredisRespSerializer()
"""redis-py's own; its asyncio connections pack in Python, which for 32 answers takes three times the rest."""
_OURS: Final[dict[str, Any]] = {
    "protocol": 2,
    "socket_timeout": None,  # one timer for all requests instead: `Connection._check`
    "socket_read_size": 65536,
}
_OPTIONS: Final = frozenset(
    {
        "connection_class", "username", "password", "host", "port", "db", "path", "client_name", "socket_keepalive",
        "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_cert_reqs",
        "ssl_check_hostname", "ssl_min_version", "ssl_ciphers",
    }
)  # fmt: skip
"""What a URL may say; the others would change what replies look like or how often there are extra ones."""


class ConnectionLost(Exception):
    """The socket is gone: the request may or may not have been carried out.

    Attributes:
        silent: the server took it and gave no answer in time; asking again at once would only add to its load.
    """

    def __init__(self, message: str, *, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


def told(error: BaseException) -> str:
    """An error's words; its kind where it has none (`TimeoutError`)."""
    return str(error) or type(error).__name__


def code(reply: RedisError) -> str:
    """An error reply's first word, as `OOM`; redis-py cuts it off where it has a class for it."""
    return reply.status_code or str(reply).partition(" ")[0]


def _is_reply(error: BaseException | None) -> bool:
    """Whether the server said it; `LOADING` and `NOAUTH` are connection errors to redis-py."""
    return isinstance(error, ResponseError | AuthenticationError) or getattr(error, "status_code", None) is not None


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """Where and as whom to connect; neither `str()` nor `repr()` of it has the password.

    Attributes:
        kind: redis-py's connection class.
        options: its arguments.
    """

    kind: type[AbstractConnection] = TcpConnection
    options: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, url: str) -> Address:
        """`redis://`, `rediss://` or `unix://`, as redis-py reads them; TLS is set by `ssl_ca_certs` and so on in the query.

        Raises:
            ConfigError: it is none of them; the message leaves out the password.
        """
        try:
            options: dict[str, Any] = dict(parse_url(url))
            path = urlsplit(url).path.strip("/")
        except ValueError:
            raise ConfigError(
                "the Redis URL is none: it looks like redis://HOST:6379/0, rediss://HOST:6379/0 or unix:///PATH?db=0"
            ) from None
        if strange := options.keys() - _OPTIONS:
            raise ConfigError(f"the Redis URL has options that it cannot have: {', '.join(sorted(strange))}")
        if path and "path" not in options and "db" not in options:
            raise ConfigError("the Redis URL needs a database number behind the host, as redis://HOST:6379/0")
        address = cls(options.pop("connection_class", TcpConnection), options)
        try:
            connection = address.connection(1.0)
            if isinstance(connection, SSLConnection):
                connection.ssl_context.get()
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(f"the certificates that the Redis URL names cannot be read: {exc}") from None
        except (TypeError, ValueError, RedisError) as exc:
            raise ConfigError(f"the Redis URL's options do not go together: {exc}") from None
        return address

    def connection(self, timeout: float) -> AbstractConnection:
        """A connection of redis-py's, not yet connected."""
        return self.kind(**self.options | _OURS, socket_connect_timeout=timeout)

    def __str__(self) -> str:
        if issubclass(self.kind, UnixDomainSocketConnection):
            return f"unix://{self.options.get('path', '')}"
        scheme = "rediss" if issubclass(self.kind, SSLConnection) else "redis"
        where = {"host": "localhost", "port": 6379, "db": 0} | self.options
        return f"{scheme}://{where['host']}:{where['port']}/{where['db']}"


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
        connection: of redis-py's, connected; nobody else reads from it or writes to it.
        timeout: seconds without an answer after which the server counts as dead.
        on_push: gets every reply that `send` did not ask for: messages of subscribed channels, and what `push` brings.

    Attributes:
        alive: whether requests can be sent.
        closed: done once the socket is closed.
    """

    def __init__(
        self, connection: AbstractConnection, timeout: float, on_push: Callable[[Reply], None] | None = None
    ) -> None:
        self._redis = connection
        self._timeout = timeout
        self._on_push = on_push
        self._loop = asyncio.get_running_loop()
        self._exchanges: collections.deque[_Exchange] = collections.deque()
        self._outgoing: list[bytes] = []
        self._written: asyncio.Future[None] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._tasks = [self._loop.create_task(self._read()), self._loop.create_task(self._write())]
        self._closing: asyncio.Task[None] | None = None
        self.alive = True
        self.closed: asyncio.Future[None] = self._loop.create_future()

    @classmethod
    async def open(cls, address: Address, timeout: float, on_push: Callable[[Reply], None] | None = None) -> Connection:
        """Connect, log in and choose the database.

        Raises:
            ConnectionLost: not reachable.
            RedisError: refused (`LOADING`, `WRONGPASS`, …); see `code`.
        """
        connection = address.connection(timeout)
        try:
            async with asyncio.timeout(timeout):
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command("PING", check_health=False)
                await connection.read_response()
        except BaseException as exc:
            with contextlib.suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)
            if not isinstance(exc, RedisError | OSError):
                raise
            # What a server says at a unix socket, redis-py raises as a cause.
            refused = next((error for error in (exc, exc.__cause__) if _is_reply(error)), None)
            raise refused or ConnectionLost(told(exc)) from None
        return cls(connection, timeout, on_push)

    async def send(self, packed: bytes, wanted: int = 1) -> list[Reply]:
        """Send packed commands that have `wanted` replies together.

        Raises:
            ConnectionLost: no answer; it may or may not have been carried out.
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
        """Send a command whose answer is a push message (`SUBSCRIBE`)."""
        if not self.alive:
            return
        self._outgoing.append(packed)
        if self._written is not None:
            self._written.set_result(None)
            self._written = None

    def close(self, reason: str = "the connection to Redis was closed", *, silent: bool = False) -> None:
        """Close the socket; what waits for a reply gets `ConnectionLost`."""
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
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        try:
            with contextlib.suppress(RedisError, OSError):
                await self._redis.disconnect(nowait=nowait)
        finally:
            self.closed.set_result(None)

    async def _write(self) -> None:
        """Send what has come together, and wait while the socket's buffer is full."""
        try:
            while self.alive:
                if not self._outgoing:
                    self._written = self._loop.create_future()
                    await self._written
                outgoing, self._outgoing = self._outgoing, []
                # It would connect by itself, with the handshake's replies for somebody else.
                if self._redis.is_connected:
                    await self._redis.send_packed_command(outgoing, check_health=False)
        except (RedisError, OSError) as exc:
            self.close(f"the connection to Redis was lost: {told(exc)}")

    async def _read(self) -> None:
        """Resolve replies in order."""
        read, reply = self._redis.read_response, None
        try:
            while True:
                try:
                    reply = await read(disable_decoding=True, disconnect_on_error=False)
                except RedisError as exc:
                    if not _is_reply(exc):
                        raise
                    reply = exc
                self._take(reply)
        except Exception as exc:  # whatever it is, nobody would read on
            self.close(f"the connection to Redis was lost: {told(exc)}")

    def _take(self, reply: Reply) -> None:
        """What nobody waits for is a push message."""
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
        """One timer for all requests: the oldest one has the first deadline."""
        self._watch = None
        if not self._exchanges:
            return
        if self._exchanges[0].deadline > self._loop.time():
            self._watch = self._loop.call_at(self._exchanges[0].deadline, self._check)
        else:
            self.close(f"Redis gave no answer within {self._timeout:g} s", silent=True)


def pack(command: Sequence[Argument]) -> bytes:
    """A command as RESP."""
    return b"".join(_PACKER.pack(*command))


def commands(listed: Sequence[Sequence[Argument]]) -> bytes:
    """Several commands for one round trip."""
    return b"".join(map(pack, listed))
