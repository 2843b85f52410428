"""Everything of redis-py that is not its documented API: a connection used without redis-py's pools and commands.

No other module uses such a name. `tests/transport/test_redis_internals.py` has a test per name, which says what another version
lacks; pyproject.toml bounds redis-py to the version that the tests ran on.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.sentinel import MasterNotFoundError
from redis.connection import HiredisRespSerializer
from redis.exceptions import AuthenticationError, RedisError, ResponseError

__all__ = [
    "AbstractConnection",
    "MasterNotFoundError",
    "check_certificates",
    "connect",
    "disconnect",
    "error_code",
    "first_reply",
    "host_and_port",
    "is_connected",
    "is_error_reply",
    "pack_command",
    "parse_url",
    "reply_reader",
    "send_packed",
]

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


def is_connected(connection: AbstractConnection) -> bool:
    """Whether there is a socket: `send_packed` would open one."""
    return bool(connection.is_connected)


def send_packed(connection: AbstractConnection, chunks: list[bytes]) -> Awaitable[None]:
    """Write packed commands, and wait while the socket's buffer is full."""
    return connection.send_packed_command(chunks, check_health=False)


def reply_reader(connection: AbstractConnection) -> Callable[[], Awaitable[Any]]:
    """Reads the next reply; raises an error reply."""
    return functools.partial(connection.read_response, disable_decoding=True, disconnect_on_error=False)


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
    """An error reply's first word, as `OOM`; redis-py cuts it off where it has a class for it."""
    return reply.status_code or str(reply).partition(" ")[0]


def is_error_reply(error: BaseException | None) -> bool:
    """Whether the server sent it: redis-py turns the replies `LOADING` and `NOAUTH` into connection errors."""
    return isinstance(error, ResponseError | AuthenticationError) or getattr(error, "status_code", None) is not None
