"""Everything of redis-py that is not its documented API: a connection used without redis-py's pools and commands.

No other module uses such a name. `tests/transport/test_redis_internals.py` has a test per name, which says what another version
lacks; pyproject.toml bounds redis-py to the version that the tests ran on.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis._parsers.socket import SERVER_CLOSED_CONNECTION_ERROR
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.sentinel import MasterNotFoundError
from redis.connection import HiredisRespSerializer
from redis.exceptions import AuthenticationError, RedisError, ResponseError

__all__ = [
    "AbstractConnection",
    "MasterNotFoundError",
    "Socket",
    "check_certificates",
    "connect",
    "disconnect",
    "error_code",
    "first_reply",
    "host_and_port",
    "is_error_reply",
    "pack_command",
    "parse_url",
]

_IN_SCRIPT: Final = re.compile(r"@user_script: ?\d+: -?([A-Z]+) ")
_PACKER: Final[Any] = HiredisRespSerializer()
"""redis-py's asyncio connections pack in Python, which for 32 answers takes three times as long as the rest."""


def pack_command(command: Sequence[str | bytes | int]) -> bytes:
    """A command as RESP."""
    return b"".join(_PACKER.pack(*command))


async def connect(connection: AbstractConnection) -> None:
    """Open the socket, log in and choose the database."""
    await connection.connect()  # type: ignore[no-untyped-call]


async def first_reply(connection: AbstractConnection, command: str) -> Any:
    """The reply to one command, before anything else uses the connection."""
    await connection.send_command(command, check_health=False)
    return await connection.read_response(disable_decoding=True)


async def disconnect(connection: AbstractConnection, *, nowait: bool) -> None:
    """Close the socket; `nowait` does not wait until it is closed."""
    await connection.disconnect(nowait=nowait)


class Socket(asyncio.Protocol):
    """A connection's socket without redis-py's stream: writes at once, and hands out replies in the turn in which they arrive.

    Args:
        connection: open, without a request in flight.
        on_reply: gets each reply; an error reply is a `RedisError`.
        on_lost: called with the reason when nothing will be read any more.
    """

    def __init__(
        self, connection: AbstractConnection, on_reply: Callable[[Any], None], on_lost: Callable[[Exception], None]
    ) -> None:
        self._on_reply = on_reply
        self._on_lost = on_lost
        parser: Any = connection._parser
        self._parser = parser._reader
        writer: Any = connection._writer
        self._transport: asyncio.Transport = writer.transport
        self._before: Any = self._transport.get_protocol()
        self._waiting: list[bytes] | None = None
        self._transport.set_protocol(self)
        stream: Any = connection._reader
        if self._transport.is_closing() or stream.at_eof():  # redis-py's protocol was told, and this one will not be
            asyncio.get_running_loop().call_soon(on_lost, ConnectionError(SERVER_CLOSED_CONNECTION_ERROR))

    def write(self, packed: bytes) -> None:
        """Write packed commands; they wait here while the socket's buffer is full."""
        if self._waiting is None:
            self._transport.write(packed)
        else:
            self._waiting.append(packed)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        try:
            self._parser.feed(data)
            while (reply := self._parser.gets(False)) is not NOT_ENOUGH_DATA:
                self._on_reply(reply)
        except Exception as exc:  # after any error nothing would read further
            self._on_lost(exc)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._waiting = []

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        waiting, self._waiting = self._waiting, None
        if waiting:
            self._transport.write(b"".join(waiting))

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`; redis-py's own protocol learns of it, because `disconnect` waits for that."""
        self._before.connection_lost(exc)
        self._on_lost(exc or ConnectionError(SERVER_CLOSED_CONNECTION_ERROR))


def host_and_port(connection: AbstractConnection) -> tuple[str, int]:
    """Of a TCP connection."""
    return connection.host, connection.port  # type: ignore[attr-defined]


def check_certificates(connection: AbstractConnection) -> None:
    """Read the certificate files of a TLS connection, which redis-py reads when it connects.

    Raises:
        OSError, ssl.SSLError: they cannot be read.
    """
    context = getattr(connection, "ssl_context", None)
    if context is not None:
        context.get()


def error_code(reply: RedisError) -> str:
    """An error reply's first word, as `OOM`; redis-py cuts it off where it has a class for it.

    Redis 6.2 puts a script and its line before the error of a command in it: `@user_script: 84: -READONLY You can't …`.
    """
    text = str(reply)
    if inside := _IN_SCRIPT.search(text):
        return inside[1]
    return reply.status_code or text.partition(" ")[0]


def is_error_reply(error: BaseException | None) -> bool:
    """Whether the server sent it: redis-py turns the replies `LOADING` and `NOAUTH` into connection errors."""
    return isinstance(error, ResponseError | AuthenticationError) or getattr(error, "status_code", None) is not None
