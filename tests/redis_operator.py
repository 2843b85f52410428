"""What an operator does to a Redis by hand, for tests that do it."""

from __future__ import annotations

from typing import Any

from redis.exceptions import RedisError

from infra.local.redis import RedisServer
from protocol.transport.redis.address import Address
from protocol.transport.redis.connection import Connection, pack_commands


async def ask(connection: Connection, *words: str | bytes) -> Any:
    (reply,) = await connection.roundtrip(pack_commands([words]))
    if isinstance(reply, RedisError):
        raise reply
    return reply


async def command(server: RedisServer, *words: str | bytes) -> Any:
    """What an operator types into redis-cli."""
    connection = await Connection.open(Address.parse(server.url), 20.0)
    try:
        return await ask(connection, *words)
    finally:
        connection.close()
        await connection.closed
