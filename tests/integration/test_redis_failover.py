"""A real Redis fails over to a replica that was cut off: answers since then are lost, and computed again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.local.process import HOST
from infra.local.redis import RedisServer
from protocol.transport import Transport
from protocol.transport.embedded.broker import MemoryBroker
from protocol.transport.embedded.memory import MemoryBus, MemoryServer
from protocol.transport.redis.store import RedisStore
from protocol.transport.settings import TransportSettings
from tests.gateway.fleet import Running, Site, add_sub
from tests.gateway.test_recovery import Keeper, done_with
from tests.redis_operator import command

pytestmark = pytest.mark.servers

ASYNC = {"prefer": "respond-async"}


class RedisSite(Site):
    """A log in memory, and the results in a real Redis."""

    url = ""

    async def transport(self) -> Transport:
        store = RedisStore(TransportSettings(kafka="unused:9092", redis=self.url, connect_timeout=10.0))
        transport = Transport(MemoryBus(self.broker), store, store)
        await transport.open()
        self.stack.push_async_callback(transport.close)
        return transport


@pytest.fixture
async def site(own_redis: RedisServer) -> AsyncIterator[RedisSite]:
    async with contextlib.AsyncExitStack() as stack:
        made = RedisSite(MemoryBroker(), MemoryServer(), stack)
        made.url = own_redis.url
        yield made


async def synchronised(server: RedisServer, keys: int) -> None:
    """Wait until the replica has this many of the primary's keys."""
    async with asyncio.timeout(20):
        while int(await command(server, "DBSIZE")) < keys:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def replica_of(server: RedisServer, data: Path, port: int | None = None) -> AsyncIterator[RedisServer]:
    """Another server with all data of this one."""
    await command(server, "CONFIG", "SET", "repl-diskless-sync-delay", "0")
    with RedisServer(data, port=port, config={"replicaof": f"{HOST} {server.port}"}) as replica:
        await synchronised(replica, int(await command(server, "DBSIZE")))
        yield replica


async def accepted(gateway: Running, value: float) -> str:
    answer = await gateway.infer(add_sub(value), **ASYNC)
    assert answer.status_code == 202
    return answer.headers["location"]


async def test_what_a_failover_lost_is_answered_again_and_alike(
    site: RedisSite, own_redis: RedisServer, tmp_path: Path
) -> None:
    worker = await site.worker()
    await (await site.transport()).bus.subscribe(worker.topic, "keeper", "k", Keeper())
    gateway = await site.gateway(claim_lease=0.2, recover_after=0.0, offsets_max_age=0.0)
    whole = await accepted(gateway, 1.0)
    first = {whole: await gateway.get(whole, params={"wait_s": "10"})}
    worker.open.clear()
    half = await accepted(gateway, 2.0)

    async with replica_of(own_redis, tmp_path / "replica") as replica:
        await command(
            replica, "REPLICAOF", "NO", "ONE"
        )  # it no longer receives anything: the answer of one request, all of another
        lost = await accepted(gateway, 3.0)
        worker.open.set()
        for location in (half, lost):
            first[location] = await gateway.get(location, params={"wait_s": "10"})
        await done_with(site, worker, 3)
        await worker.stop()
        own_redis.kill()
        async with replica_of(replica, tmp_path / "promoted", own_redis.port) as promoted:
            await command(promoted, "REPLICAOF", "NO", "ONE")
            second = await site.worker(name="w2")
            again = {}
            async with asyncio.timeout(30):
                for location in first:
                    while location not in again or again[location].status_code != 200:
                        again[location] = await gateway.get(location, params={"wait_s": "1"})

            ids = [first[location].headers["penstock-request-id"] for location in (half, lost)]
            assert sorted(second.ran) == sorted(ids), (
                "each request that lost its answer ran once more, and nothing else"
            )
            for location, answer in first.items():
                assert (answer.status_code, again[location].json()) == (200, answer.json())
