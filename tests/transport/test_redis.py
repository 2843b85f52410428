"""The contract of the result store, on a real Redis; what only Redis has is in test_redis_faults.py and below."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from protocol.naming import Names
from protocol.transport.redis.store import RedisStore
from protocol.transport.settings import TransportSettings
from tests.transport import contract_results


class RedisSite(contract_results.Site):
    """A Redis and a prefix."""

    def __init__(self, url: str, prefix: str) -> None:
        self.url = url
        self.prefix = prefix
        self.stores: list[RedisStore] = []

    @property
    def names(self) -> Names:
        return Names(self.prefix)

    async def connect(self, result_ttl: float = 60.0) -> RedisStore:
        settings = TransportSettings(
            kafka="unused:9092", redis=self.url, prefix=self.prefix, result_ttl=result_ttl, connect_timeout=10.0
        )
        store = RedisStore(settings)
        self.stores.append(store)
        await store.open()
        return store

    async def close(self) -> None:
        for store in self.stores:
            await store.close()


@pytest.mark.servers
class TestRedisStore(contract_results.ResultsContract):
    @pytest.fixture
    async def site(self, redis_url: str, prefix: str) -> AsyncIterator[RedisSite]:
        site = RedisSite(redis_url, prefix)
        yield site
        await site.close()
