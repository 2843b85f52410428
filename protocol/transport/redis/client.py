"""Requests over one shared connection, subscriptions over another; both reconnect with jitter.

Invariant: every refusal of Redis or the network reaches callers as `Unavailable`, and every request may be repeated.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final

import tenacity
from redis.exceptions import RedisError

from protocol.errors import Unavailable
from protocol.runtime.outages import system_error
from protocol.transport.redis.address import Address
from protocol.transport.redis.connection import Argument, Connection, ConnectionLost, Reply, described
from protocol.transport.redis.redis_internals import error_code, pack_command

log = logging.getLogger(__name__)

REPLY_TIMEOUT: Final = 5.0
"""Seconds without a reply after which a connection counts as dead."""
RECONNECTS: Final = 4
KEEPALIVE: Final = 5.0
"""Seconds between two PINGs on the subscriptions' connection."""
LONGEST_PAUSE: Final = 1.0

_WHY: Final = {
    "OOM": "has no memory left (maxmemory): give it more, or wait until results expire",
    "READONLY": "is a read-only replica: name the primary, or wait for the failover to end",
    "LOADING": "is loading its data set from disk",
    "BUSY": "is busy with a script",
    "MASTERDOWN": "is a replica that has lost its primary",
    "MISCONF": "refuses writes because it cannot save to disk",
    "NOREPLICAS": "refuses writes because it has too few replicas (min-replicas-to-write)",
    "CROSSSLOT": "is a Redis Cluster, which is not supported: name a single primary",
    "MOVED": "is a Redis Cluster, which is not supported: name a single primary",
    "NOAUTH": "requires a password: put it in the URL",
    "WRONGPASS": "refuses the user name or password",
    "NOPERM": "does not allow this user to run the command",
}


def pause(attempt: int) -> float:
    """Seconds before reconnecting, with full jitter: 0.05, 0.1, 0.2, … at most `LONGEST_PAUSE`."""
    return random.uniform(0.01, min(LONGEST_PAUSE, 0.05 * 2.0 ** min(attempt, 10)))  # noqa: S311


class Client:
    """Requests over one shared, pipelined connection.

    Args:
        address: of the server.
        connect_timeout: seconds.
        on_lost: called when a connection was lost or could not be made.

    Attributes:
        failure: why the newest connection was not made.
    """

    def __init__(self, address: Address, connect_timeout: float, on_lost: Callable[[], None] = lambda: None) -> None:
        self.address = address
        self.failure = ""
        self._connect_timeout = connect_timeout
        self._on_lost = on_lost
        self._connection: Connection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closed = False

    async def open(self) -> None:
        """Connect; waits for a server that is starting or loading.

        Raises:
            Unavailable: no reply within the connect timeout, or the credentials were refused.
        """
        self._closed = False
        try:
            async for attempt in tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception(_may_pass),
                wait=tenacity.wait_random_exponential(multiplier=0.05, max=LONGEST_PAUSE),
                stop=tenacity.stop_after_delay(self._connect_timeout),
                reraise=True,
            ):
                with attempt:
                    await self._connected()
        except RedisError as exc:
            raise self.refusal(exc) from None
        except ConnectionLost as exc:
            text = described(exc)
            raise Unavailable(
                f"Redis at {self.address} did not answer within {self._connect_timeout:g} s: {system_error(text) or text}"
            ) from None

    async def close(self) -> None:
        """Disconnect; later requests are refused."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
        if self._connection is not None:
            self._connection.close()
            await self._connection.closed
            self._connection = None

    async def call(self, *command: Argument) -> Reply:
        """One command's reply.

        Raises:
            Unavailable: refused, or no reply.
        """
        return (await self.call_packed(pack_command(command)))[0]

    async def call_packed(self, packed: bytes, wanted: int = 1, *, raw: bool = False) -> list[Reply]:
        """The replies of packed commands, in one round trip; sent again on a new connection if the first one is lost.

        Args:
            packed: the commands.
            wanted: how many commands.
            raw: leave error replies in the list instead of raising.

        Raises:
            Unavailable: refused, or no reply.
        """
        connection = self._connection
        if connection is not None and connection.alive:
            try:
                return self._checked(await connection.roundtrip(packed, wanted), raw)
            except ConnectionLost as exc:
                self._on_lost()
                if exc.silent:
                    raise Unavailable(f"Redis at {self.address} gave no answer: {exc}") from None
        return self._checked(await self._call_again(packed, wanted), raw)

    def refusal(self, reply: RedisError) -> Unavailable:
        """An error reply in an operator's words."""
        why = _WHY.get(error_code(reply))
        return Unavailable(f"Redis at {self.address} {why}" if why else f"Redis at {self.address} answered: {reply}")

    def _checked(self, replies: list[Reply], raw: bool) -> list[Reply]:
        if not raw:
            for reply in replies:
                if isinstance(reply, RedisError):
                    raise self.refusal(reply)
        return replies

    async def _call_again(self, packed: bytes, wanted: int) -> list[Reply]:
        lost = ""
        for attempt in range(RECONNECTS):
            if self._closed:
                raise Unavailable(f"the connection to Redis at {self.address} is closed")
            if attempt:
                await asyncio.sleep(pause(attempt))
            try:
                return await (await self._connected()).roundtrip(packed, wanted)
            except RedisError as exc:
                raise self.refusal(exc) from None
            except ConnectionLost as exc:
                lost = described(exc)
        raise Unavailable(f"Redis at {self.address} cannot be reached: {lost}")

    async def _connected(self) -> Connection:
        """The connection; callers that find it lost wait for the same new one."""
        if self._connection is None or not self._connection.alive:
            if self._opening is None:
                self._opening = asyncio.get_running_loop().create_task(self._open())
                self._opening.add_done_callback(self._opened)
            await asyncio.shield(self._opening)
        assert self._connection is not None
        return self._connection

    async def _open(self) -> None:
        self._connection = await Connection.open(self.address, min(REPLY_TIMEOUT, self._connect_timeout))

    def _opened(self, opening: asyncio.Task[None]) -> None:
        self._opening = None
        if not opening.cancelled():
            error = opening.exception()  # retrieved, even if every caller was cancelled
            if error is not None:
                self.failure = described(error)
                self._on_lost()


def _may_pass(error: BaseException) -> bool:
    """Whether the error may pass with time."""
    if isinstance(error, RedisError):
        return error_code(error) in {"LOADING", "BUSY", "MASTERDOWN"}
    return isinstance(error, ConnectionLost)


class Subscriptions:
    """Subscribed channels, over their own connection, which is reopened as long as the process lives.

    Messages that are published while it is down are lost: messages are hints.
    """

    def __init__(self, address: Address, connect_timeout: float, on_lost: Callable[[], None] = lambda: None) -> None:
        self.address = address
        self._connect_timeout = connect_timeout
        self._on_lost = on_lost
        self._handlers: dict[bytes, Callable[[bytes], None]] = {}
        self._confirmed: set[bytes] = set()
        self._confirmations: dict[bytes, asyncio.Future[None]] = {}
        self._connection: Connection | None = None
        self._heard = False
        self._task: asyncio.Task[None] | None = None

    @property
    def healthy(self) -> bool:
        """Whether every channel is subscribed now."""
        alive = self._connection is not None and self._connection.alive
        return not self._handlers or (alive and self._confirmed >= self._handlers.keys())

    async def listen(self, channel: str, on_message: Callable[[bytes], None]) -> None:
        """Call back with every message of the channel; returns once subscribed.

        Raises:
            Unavailable: not subscribed within the connect timeout; it keeps trying.
        """
        name = channel.encode()
        self._handlers[name] = on_message
        waiting = self._confirmations.setdefault(name, asyncio.get_running_loop().create_future())
        if name in self._confirmed and not waiting.done():
            waiting.set_result(None)
        elif self._connection is not None:
            self._connection.push(pack_command(("SUBSCRIBE", name)))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        await asyncio.wait([waiting], timeout=self._connect_timeout)
        if not waiting.done() or waiting.cancelled():
            raise Unavailable(f"Redis at {self.address} did not confirm the subscription to {channel}")

    def unlisten(self, channel: str) -> None:
        """Unsubscribe; an unknown channel is not an error."""
        name = channel.encode()
        self._handlers.pop(name, None)
        self._confirmed.discard(name)
        if (waiting := self._confirmations.pop(name, None)) is not None:
            waiting.cancel()
        if self._connection is not None:
            self._connection.push(pack_command(("UNSUBSCRIBE", name)))

    async def close(self) -> None:
        """Unsubscribe from all channels."""
        self._handlers.clear()
        for waiting in self._confirmations.values():
            waiting.cancel()
        self._confirmations.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _run(self) -> None:
        attempt = 0
        while True:
            try:
                self._connection = await Connection.open(self.address, REPLY_TIMEOUT, self._on_push)
                if attempt:
                    log.warning("listening to Redis at %s again", self.address)
                attempt = 0
                await self._keep(self._connection)
                self._on_lost()
                log.warning("the listening connection to Redis at %s was lost", self.address)
            except (ConnectionLost, RedisError) as exc:
                self._on_lost()
                if attempt == 0:
                    log.warning("cannot listen to Redis at %s: %s", self.address, described(exc))
            except Exception:
                log.exception("listening to Redis at %s failed, and is restarted", self.address)
            finally:
                self._confirmed.clear()
                if self._connection is not None:
                    self._connection.close()
                    await asyncio.wait([self._connection.closed])
                    self._connection = None
            attempt += 1
            await asyncio.sleep(pause(attempt))

    async def _keep(self, connection: Connection) -> None:
        """Subscribe to all channels, then watch for silence until the connection is lost."""
        if self._handlers:
            connection.push(pack_command(("SUBSCRIBE", *self._handlers)))
        self._heard = True
        while connection.alive and self._heard:
            self._heard = False
            connection.push(pack_command(("PING",)))
            await asyncio.wait([connection.closed], timeout=KEEPALIVE)

    def _on_push(self, message: Reply) -> None:
        self._heard = True
        if isinstance(message, RedisError):
            log.error("Redis at %s refuses a subscription: %s", self.address, message)
        if not isinstance(message, list):
            return
        kind, channel = message[0], message[1]
        if kind == b"message" and (handler := self._handlers.get(channel)) is not None:
            try:
                handler(message[2])
            except Exception:
                log.exception("the handler of channel %s failed", channel.decode())
        elif kind == b"subscribe" and channel in self._handlers:
            self._confirmed.add(channel)
            if (waiting := self._confirmations.get(channel)) is not None and not waiting.done():
                waiting.set_result(None)
