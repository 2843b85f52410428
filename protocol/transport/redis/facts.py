"""Reads `RedisFacts` from a server; changes nothing."""

from __future__ import annotations

from typing import Any

from redis.exceptions import RedisError

from protocol.transport.facts import RedisFacts
from protocol.transport.redis.address import Address
from protocol.transport.redis.client import Client
from protocol.transport.redis.connection import pack_commands
from protocol.transport.settings import TransportSettings


async def read_redis(settings: TransportSettings) -> RedisFacts:
    """The server's info and settings. Hosted servers often refuse CONFIG: then the settings are empty.

    Raises:
        Unavailable: the server does not reply.
    """
    address = Address.parse(settings.redis)
    client = Client(address, settings.connect_timeout)
    await client.open()
    try:
        info, config = await client.call_packed(pack_commands([("INFO",), ("CONFIG", "GET", "*")]), 2, raw=True)
        if isinstance(info, RedisError):
            raise client.refusal(info)
    finally:
        await client.close()
    lines = (line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    return RedisFacts(str(address), dict((name, value) for name, value in lines), _pairs(config))  # noqa: C402


def _pairs(config: Any) -> dict[str, str]:
    """CONFIG GET's reply, without secrets."""
    if isinstance(config, RedisError):
        return {}
    texts = [item.decode(errors="replace") for item in config]
    pairs = dict(zip(texts[::2], texts[1::2], strict=True))
    return {name: value for name, value in pairs.items() if "pass" not in name and "auth" not in name}
