"""What a connection to a server named by Sentinels does; tests/infra/test_cluster.py tests the Sentinels themselves."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from infra.local.process import HOST, free_port
from infra.local.redis import RedisServer
from protocol.errors import Unavailable
from protocol.transport.redis.address import Address
from protocol.transport.redis.client import Client
from protocol.transport.redis.connection import Connection
from protocol.transport.redis.sentinel import SentinelClient, Sentinels

pytestmark = pytest.mark.servers

WRITE = ("EVAL", "return redis.call('SET', 'key', '1')", 0)
"""As the fleet writes: in a script, whose errors Redis 6.2 words differently from a command's."""


@dataclasses.dataclass(frozen=True, slots=True)
class Named(Sentinels):
    """Sentinels that name the given primaries."""

    primaries: list[tuple[str, int]] = dataclasses.field(default_factory=list)

    def sentinel_client(self, tls: Mapping[str, Any]) -> SentinelClient:
        return NamedPrimary(self.primaries)


class NamedPrimary(SentinelClient):
    def __init__(self, primaries: list[tuple[str, int]]) -> None:
        super().__init__("fleet", [])
        self._primaries = primaries

    async def primary(self) -> tuple[str, int]:
        return self._primaries[-1]


def named(server: RedisServer) -> tuple[Address, list[tuple[str, int]]]:
    primaries = [(HOST, server.port)]
    return Address(sentinels=Named("fleet", (), primaries=primaries)), primaries


async def by_hand(server: RedisServer, *command: str) -> None:
    client = Client(Address.parse(server.url), 5.0)
    await client.call(*command)
    await client.close()


async def test_a_primary_that_says_it_is_a_replica_is_left_and_not_written_to_before_it_is_one_again(
    own_redis: RedisServer,
) -> None:
    client = Client(named(own_redis)[0], 5.0)
    await client.open()
    assert await client.call(*WRITE) == b"OK"

    await by_hand(own_redis, "REPLICAOF", HOST, str(free_port()))
    with pytest.raises(Unavailable, match="is not a primary yet"):
        await client.call(*WRITE)

    await by_hand(own_redis, "REPLICAOF", "NO", "ONE")
    assert await client.call(*WRITE) == b"OK"
    await client.close()


async def test_a_connection_ends_when_another_server_is_named(own_redis: RedisServer) -> None:
    address, primaries = named(own_redis)
    connection = await Connection.open(address, 5.0)

    primaries.append(("elsewhere", 1))

    async with asyncio.timeout(5):
        await connection.closed
    assert not connection.alive
