"""One socket to Redis, as an `asyncio.Protocol` on hiredis: requests are pipelined, replies resolve futures.

redis-py's asyncio connection packs commands in Python and crosses two stream layers: 225 to 450 µs of client CPU for a
script call with 8 to 32 answers where this one takes 60 to 95 (measured, docs/decisions). RESP2 only.

Invariant: replies come in the order of the requests, so a caller that goes away leaves its place in the queue, never its
reply to somebody else.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final, cast
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis
from hiredis import ReplyError

from protocol.errors import ConfigError

Argument = str | bytes | int
Reply = Any
"""What hiredis makes of RESP2: bytes, int, None, a list of replies, or a `ReplyError` as a value."""

PORT: Final = 6379
WRITE_LIMIT: Final = 8 * 1024 * 1024
"""Bytes that may wait in the socket's buffer before callers have to wait."""


class ConnectionLost(Exception):
    """The socket is gone: the request may or may not have been carried out.

    Attributes:
        silent: the server took it and gave no answer in time; asking again at once would only add to its load.
    """

    def __init__(self, message: str, *, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """Where and as whom to connect; `str()` of it has no password.

    Attributes:
        path: of a unix socket; then host and port mean nothing.
        tls: the verified context of `rediss://`, or None.
    """

    host: str = "localhost"
    port: int = PORT
    path: str = ""
    database: int = 0
    username: str = ""
    password: str = dataclasses.field(default="", repr=False)
    tls: ssl.SSLContext | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> Address:
        """`redis://`, `rediss://` or `unix://`; TLS takes `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs`
        (`required` or `none`) and `ssl_check_hostname` from the query.

        Raises:
            ConfigError: it is none of them; the message leaves out the password.
        """
        parts = urlsplit(url)
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if parts.scheme not in {"redis", "rediss", "unix"}:
            raise ConfigError(
                f"the Redis URL starts with {parts.scheme or 'nothing'}://, not redis://, rediss:// or unix://"
            )
        number = options.get("db") or ("" if parts.scheme == "unix" else parts.path.strip("/"))
        try:
            port, database = parts.port or PORT, int(number or 0)
        except ValueError:
            raise ConfigError(
                "the Redis URL needs a port number and a database number, as redis://HOST:6379/0"
            ) from None
        return cls(
            host=parts.hostname or "localhost",
            port=port,
            path=unquote(parts.path) if parts.scheme == "unix" else "",
            database=database,
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            tls=_tls(options) if parts.scheme == "rediss" else None,
        )

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        return f"redis{'s' if self.tls else ''}://{self.host}:{self.port}/{self.database}"


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if certificate := options.get("ssl_certfile"):
            context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"the certificates that the Redis URL names cannot be read: {exc}") from None
    if options.get("ssl_check_hostname", "").lower() in {"false", "0", "no"}:
        context.check_hostname = False
    if options.get("ssl_cert_reqs", "required") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class _Exchange:
    """A request that waits for its replies."""

    __slots__ = ("deadline", "future", "replies", "wanted")

    def __init__(self, future: asyncio.Future[list[Reply]], wanted: int, deadline: float) -> None:
        self.future = future
        self.wanted = wanted
        self.deadline = deadline
        self.replies: list[Reply] = []


class Connection(asyncio.Protocol):
    """A connected, authenticated socket; never reconnects.

    Args:
        timeout: seconds without an answer after which the server counts as dead.
        on_push: gets every reply that `send` did not ask for: messages of subscribed channels, and what `push` brings.
    """

    def __init__(self, timeout: float, on_push: Callable[[Reply], None] | None = None) -> None:
        self._timeout = timeout
        self._on_push = on_push
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._exchanges: collections.deque[_Exchange] = collections.deque()
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._writable: asyncio.Future[None] | None = None
        self._silent = False
        self.closed: asyncio.Future[None] = self._loop.create_future()

    @classmethod
    async def open(cls, address: Address, timeout: float, on_push: Callable[[Reply], None] | None = None) -> Connection:
        """Connect, log in and choose the database.

        Raises:
            ConnectionLost, OSError, TimeoutError: not reachable.
            ReplyError: refused (`LOADING`, `WRONGPASS`, …).
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout):
            if address.path:
                _, connection = await loop.create_unix_connection(lambda: cls(timeout, on_push), address.path)
            else:
                _, connection = await loop.create_connection(
                    lambda: cls(timeout, on_push), address.host, address.port, ssl=address.tls
                )
            try:
                await connection._greet(address)
            except BaseException:
                connection.close()
                raise
        return connection

    async def _greet(self, address: Address) -> None:
        greetings: list[tuple[Argument, ...]] = []
        if address.password:
            user = (address.username,) if address.username else ()
            greetings.append(("AUTH", *user, address.password))
        if address.database:
            greetings.append(("SELECT", address.database))
        greetings.append(("PING",))
        for reply in await self.send(commands(greetings), len(greetings)):
            if isinstance(reply, ReplyError):
                raise reply

    @property
    def alive(self) -> bool:
        """Whether requests can be sent."""
        return not self.closed.done()

    async def send(self, packed: bytes, wanted: int = 1) -> list[Reply]:
        """Send packed commands that have `wanted` replies together.

        Raises:
            ConnectionLost: no answer; it may or may not have been carried out.
        """
        if self._writable is not None:
            await asyncio.shield(self._writable)
        if self._transport is None or self.closed.done():
            raise ConnectionLost("the connection to Redis is closed")
        exchange = _Exchange(self._loop.create_future(), wanted, self._loop.time() + self._timeout)
        self._exchanges.append(exchange)
        if self._watch is None:
            self._watch = self._loop.call_at(exchange.deadline, self._check)
        self._transport.write(packed)
        return await exchange.future

    def push(self, packed: bytes) -> None:
        """Send a command whose answer is a push message (`SUBSCRIBE`)."""
        if self._transport is not None and not self.closed.done():
            self._transport.write(packed)

    def close(self) -> None:
        """Close the socket; what waits for a reply gets `ConnectionLost`."""
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_LIMIT)

    def data_received(self, data: bytes) -> None:
        """Resolve replies in order; what nobody waits for is a push message."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                self._take(reply)
        except hiredis.ProtocolError:
            self.close()

    def _take(self, reply: Reply) -> None:
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

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits learns that it got no answer."""
        if self._watch is not None:
            self._watch.cancel()
        if self._silent:
            reason = f"Redis gave no answer within {self._timeout:g} s"
        else:
            reason = f"the connection to Redis was lost{f': {exc}' if exc else ''}"
        self.resume_writing()
        if not self.closed.done():
            self.closed.set_result(None)
        for exchange in self._exchanges:
            if not exchange.future.done():
                exchange.future.set_exception(ConnectionLost(reason, silent=self._silent))
        self._exchanges.clear()

    def pause_writing(self) -> None:
        """The buffer is full: senders wait."""
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """There is room again."""
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    def _check(self) -> None:
        """One timer for all requests: the oldest one has the first deadline."""
        self._watch = None
        if not self._exchanges:
            return
        if self._exchanges[0].deadline > self._loop.time():
            self._watch = self._loop.call_at(self._exchanges[0].deadline, self._check)
        else:
            self._silent = True
            self.close()


def pack(command: Sequence[Argument]) -> bytes:
    """A command as RESP."""
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]
    return packed


def commands(listed: Sequence[Sequence[Argument]]) -> bytes:
    """Several commands for one round trip."""
    return b"".join(map(pack, listed))
