"""What only a real Redis does: refuse, load, hang, restart, forget scripts, drop connections."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import RedisError

from infra.local.process import free_port
from infra.local.redis import RedisServer
from protocol.errors import ConfigError, Unavailable
from protocol.ports import Cancel, ClaimState, FinishOutcome, Terminal, Wake
from protocol.transport.redis.address import Address
from protocol.transport.redis.connection import Connection
from protocol.transport.redis.store import RedisStore
from protocol.transport.settings import TransportSettings
from tests.redis_operator import ask, command
from tests.transport.contract_results import new_claim, new_ref
from tests.transport.test_redis import RedisSite

pytestmark = pytest.mark.servers

WRITTEN, ALREADY = [FinishOutcome.WRITTEN], [FinishOutcome.ALREADY_TERMINAL]


@pytest.fixture
async def site(own_redis: RedisServer, prefix: str) -> AsyncIterator[RedisSite]:
    site = RedisSite(own_redis.url, prefix)
    yield site
    await site.close()


async def listening(site: RedisSite, name: str = "g1") -> tuple[RedisStore, str, list[Wake]]:
    store, channel, wakes = await site.connect(), site.names.gateway_channel(name), []
    await store.listen(channel, wakes.extend)
    return store, channel, wakes


async def eventually(site: RedisSite, call: Callable[[], Awaitable[Any]]) -> Any:
    """What the fleet does: repeat while it is unavailable."""
    async with asyncio.timeout(site.time_limit):
        while True:
            try:
                return await call()
            except Unavailable:
                await asyncio.sleep(0.02)


class TestClusters:
    @pytest.mark.parametrize("own_redis", [{"cluster-enabled": "yes"}], indirect=True)
    async def test_a_redis_cluster_is_refused_at_the_start_and_told_what_to_do(self, site: RedisSite) -> None:
        with pytest.raises(ConfigError, match=r"Redis Cluster.*Name a single Redis"):
            await site.connect()


class TestRefusals:
    """A Redis that cannot store a result reports it; nothing is done, and the repeated call writes exactly one terminal."""

    async def refuses_then_recovers(self, site: RedisSite, server: RedisServer, words: str, *recovery: str) -> None:
        worker, (gateway, channel, wakes) = await site.connect(), await listening(site)
        refs = [new_ref() for _ in range(8)]
        claimed = new_ref()
        answers = [Terminal(ref, ref.encode() * 40, channel) for ref in refs]
        for call in (
            lambda: worker.finish(answers),
            lambda: gateway.claim(new_claim(claimed, channel)),
            lambda: worker.start([claimed], "w1", 60.0),
        ):
            with pytest.raises(Unavailable, match=words):
                await call()
        await command(server, *recovery)
        assert await eventually(site, lambda: gateway.look([*refs, claimed])) == [None] * 9
        assert wakes == []
        assert await worker.finish(answers) == WRITTEN * 8
        assert await worker.finish([Terminal(ref, b"late") for ref in refs]) == ALREADY * 8
        assert (await gateway.claim(new_claim(claimed, channel))).state is ClaimState.FRESH
        await site.until(lambda: len(wakes) == 8)
        assert wakes == [Wake(ref, ref.encode() * 40) for ref in refs]

    async def test_out_of_memory(self, site: RedisSite, own_redis: RedisServer) -> None:
        await command(own_redis, "CONFIG", "SET", "maxmemory", "1")
        assert await (await site.connect()).fill() == 1.0
        await self.refuses_then_recovers(site, own_redis, "maxmemory", "CONFIG", "SET", "maxmemory", "0")
        assert await (await site.connect()).fill() == 0.0

    async def test_read_only(self, site: RedisSite, own_redis: RedisServer) -> None:
        """A primary that a failover has made a replica."""
        await command(own_redis, "REPLICAOF", "127.0.0.1", str(free_port()))
        await self.refuses_then_recovers(site, own_redis, "read-only replica", "REPLICAOF", "NO", "ONE")

    async def test_too_few_replicas(self, site: RedisSite, own_redis: RedisServer) -> None:
        await command(own_redis, "CONFIG", "SET", "min-replicas-to-write", "1")
        recovery = ("CONFIG", "SET", "min-replicas-to-write", "0")
        await self.refuses_then_recovers(site, own_redis, "too few replicas", *recovery)

    async def test_busy_with_a_script(self, site: RedisSite, own_redis: RedisServer) -> None:
        await command(own_redis, "CONFIG", "SET", "lua-time-limit", "50")
        worker = await site.connect()
        operator = await Connection.open(Address.parse(own_redis.url), 20.0)
        endless = asyncio.ensure_future(command(own_redis, "EVAL", "while true do end", "0"))

        async def finish_until_refused() -> None:
            async with asyncio.timeout(site.time_limit):
                while True:
                    await worker.finish([Terminal(new_ref(), b"r")])

        with pytest.raises(Unavailable, match="busy with a script"):
            await finish_until_refused()
        await ask(operator, "SCRIPT", "KILL")
        with pytest.raises(RedisError):
            await endless
        operator.close()
        assert await worker.finish([Terminal(new_ref(), b"r")]) == WRITTEN

    async def test_a_full_store_takes_what_fits_and_loses_nothing(
        self, site: RedisSite, own_redis: RedisServer
    ) -> None:
        worker = await site.connect()
        used = int(re.findall(rb"used_memory:(\d+)", await command(own_redis, "INFO", "memory"))[0])
        await command(own_redis, "CONFIG", "SET", "maxmemory", str(used + 2_000_000))
        batches = [[Terminal(new_ref(), bytes(20_000)) for _ in range(16)] for _ in range(20)]
        outcomes = []
        for batch in batches:
            try:
                outcomes.append(await worker.finish(batch))
            except Unavailable:
                outcomes.append(None)
        assert None in outcomes
        assert outcomes[0] == WRITTEN * 16
        assert await worker.fill() > 0.9
        await command(own_redis, "CONFIG", "SET", "maxmemory", "0")
        for batch, outcome in zip(batches, outcomes, strict=True):
            assert await worker.finish(batch) == (ALREADY if outcome else WRITTEN) * 16


LOADS_SLOWLY = {"appendonly": "yes", "aof-use-rdb-preamble": "no", "key-load-delay": "400"}
"""400 µs for every command in the file; the option is Redis's own, for its tests."""


@pytest.mark.parametrize("own_redis", [LOADS_SLOWLY], indirect=True)
class TestLoading:
    async def fill_file(self, own_redis: RedisServer) -> None:
        script = "for n = 1, 4000 do redis.call('SET', 'filler:' .. n, string.rep('x', 600)) end"
        await command(own_redis, "EVAL", script, "0")

    async def test_a_restarted_redis_that_loads_is_unavailable_and_then_goes_on(
        self, site: RedisSite, own_redis: RedisServer
    ) -> None:
        worker, (gateway, channel, wakes) = await site.connect(), await listening(site)
        old, new = new_ref(), new_ref()
        assert await worker.finish([Terminal(old, b"before", channel)]) == WRITTEN
        await self.fill_file(own_redis)
        await asyncio.to_thread(own_redis.stop)
        own_redis.launch()
        refused = set()
        async with asyncio.timeout(site.time_limit):
            while True:
                try:
                    assert await worker.finish([Terminal(new, b"after", channel)]) == WRITTEN
                    break
                except Unavailable as exc:
                    refused.add("loading" if "is loading" in exc.message else "away")
        assert "loading" in refused
        assert await worker.finish([Terminal(old, b"late"), Terminal(new, b"late")]) == ALREADY * 2
        assert [state and state.payload for state in await worker.look([old, new])] == [b"before", b"after"]
        await site.until_true(gateway.healthy)
        late = new_ref()
        await worker.finish([Terminal(late, b"x", channel)])
        await site.until(lambda: Wake(late, b"x") in wakes)

    async def test_opening_waits_until_it_has_loaded(self, site: RedisSite, own_redis: RedisServer) -> None:
        await self.fill_file(own_redis)
        await asyncio.to_thread(own_redis.stop)
        own_redis.launch()
        store = await site.connect()
        assert await store.finish([Terminal(new_ref(), b"r")]) == WRITTEN


class TestConnections:
    async def test_listeners_come_back_after_a_restart(self, site: RedisSite, own_redis: RedisServer) -> None:
        worker, (gateway, channel, wakes) = await site.connect(), await listening(site)
        cancelled: list[Cancel] = []
        await worker.listen_cancels("cancels", cancelled.extend)
        own_redis.kill()
        assert not await gateway.healthy()
        with pytest.raises(Unavailable):
            await worker.finish([Terminal(new_ref(), b"r", channel)])
        await asyncio.to_thread(own_redis.start)
        await site.until_true(gateway.healthy)
        await site.until_true(worker.healthy)
        ref = new_ref()
        assert await worker.finish([Terminal(ref, b"r", channel)]) == WRITTEN
        await site.until(lambda: wakes == [Wake(ref, b"r")])
        await gateway.cancel("cancels", [Cancel("1", 1.5)])
        await site.until(lambda: cancelled == [Cancel("1", 1.5)])

    async def test_a_message_that_is_no_cancellation_is_passed_over(
        self, site: RedisSite, own_redis: RedisServer
    ) -> None:
        worker, gateway = await site.connect(), await site.connect()
        heard: list[Cancel] = []
        await worker.listen_cancels("cancels", heard.extend)
        for message in (b"\xc1", b"\x01", b"\x91\xa11", b"\x91\x92\xa11\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00"):
            await command(own_redis, "PUBLISH", "cancels", message)
        await gateway.cancel("cancels", [Cancel("1", 1.5)])
        await site.until(lambda: bool(heard))
        assert heard == [Cancel("1", 1.5)]
        assert await worker.healthy()

    async def test_a_dropped_connection_is_not_noticed(self, site: RedisSite, own_redis: RedisServer) -> None:
        worker, (gateway, channel, wakes) = await site.connect(), await listening(site)
        for turn in range(5):
            await command(own_redis, "CLIENT", "KILL", "TYPE", "normal")
            ref = new_ref()
            assert await worker.finish([Terminal(ref, b"%d" % turn, channel)]) == WRITTEN
            assert (await gateway.claim(new_claim(new_ref()))).state is ClaimState.FRESH
        await site.until(lambda: len(wakes) == 5)

    async def test_a_dropped_listener_subscribes_again(self, site: RedisSite, own_redis: RedisServer) -> None:
        worker, (gateway, channel, wakes) = await site.connect(), await listening(site)
        await command(own_redis, "CLIENT", "KILL", "TYPE", "pubsub")
        await site.until_true(gateway.healthy)
        ref = new_ref()

        async def heard() -> bool:
            await worker.finish([Terminal(ref, b"r", channel)])
            return bool(wakes)

        await site.until_true(heard)

    async def test_forgotten_scripts_are_loaded_again(self, site: RedisSite, own_redis: RedisServer) -> None:
        store, ref = await site.connect(), new_ref()
        await command(own_redis, "SCRIPT", "FLUSH")
        assert (await store.claim(new_claim(ref))).state is ClaimState.FRESH
        await command(own_redis, "SCRIPT", "FLUSH")
        outcomes = await asyncio.gather(*(store.finish([Terminal(new_ref(), b"r")]) for _ in range(20)))
        assert outcomes == [WRITTEN] * 20

    async def test_a_hanging_redis_is_unavailable_and_not_healthy(
        self, site: RedisSite, own_redis: RedisServer
    ) -> None:
        worker, (gateway, channel, _) = await site.connect(), await listening(site)
        ref = new_ref()
        os.kill(own_redis.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert not await gateway.healthy()
            assert time.monotonic() - began < 3
            with pytest.raises(Unavailable, match="gave no answer"):
                await worker.finish([Terminal(ref, b"r", channel)])
            assert time.monotonic() - began < 10
        finally:
            os.kill(own_redis.pid, signal.SIGCONT)
        # The first call was carried out after all; its repetition is refused, and wakes by pointer.
        assert await worker.finish([Terminal(ref, b"r", channel)]) == ALREADY
        await site.until_true(gateway.healthy)
        assert (await gateway.look([ref]))[0].payload == b"r"  # type: ignore[union-attr]

    async def test_cancelled_calls_leave_the_replies_in_order(self, site: RedisSite) -> None:
        store = await site.connect()
        refs = [new_ref() for _ in range(50)]
        await store.finish([Terminal(ref, ref.encode()) for ref in refs])
        looks = [asyncio.ensure_future(store.look([ref])) for ref in refs]
        await asyncio.sleep(0)
        for look in looks[::2]:
            look.cancel()
        kept = await asyncio.gather(*looks[1::2])
        assert [states[0].payload for states in kept if states[0]] == [ref.encode() for ref in refs[1::2]]

    async def test_cancelled_calls_do_not_drop_the_connection_while_its_buffer_is_full(
        self, site: RedisSite, own_redis: RedisServer
    ) -> None:
        store = await site.connect()
        os.kill(own_redis.pid, signal.SIGSTOP)
        try:
            calls = [asyncio.ensure_future(store.finish([Terminal(new_ref(), bytes(1_000_000))])) for _ in range(24)]
            await asyncio.sleep(0.1)
            for call in calls[::2]:
                call.cancel()
            await asyncio.sleep(0.1)
        finally:
            os.kill(own_redis.pid, signal.SIGCONT)
        assert await asyncio.gather(*calls[1::2]) == [WRITTEN] * 12
        stats = await command(own_redis, "INFO", "commandstats")
        assert int(re.findall(rb"cmdstat_evalsha:calls=(\d+)", stats)[0]) == 24

    async def test_no_redis_is_unavailable_within_the_connect_timeout(self, prefix: str) -> None:
        url = f"redis://:secret@127.0.0.1:{free_port()}/0"
        store = RedisStore(TransportSettings(kafka="unused:1", redis=url, prefix=prefix, connect_timeout=0.5))
        began = time.monotonic()
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1") as caught:
            await store.open()
        assert time.monotonic() - began < 3
        assert "secret" not in caught.value.message
        await store.close()

    async def test_large_batches_are_split_so_that_others_get_their_turn(
        self, site: RedisSite, own_redis: RedisServer
    ) -> None:
        """One script call with 32 results of 1 MB stops Redis for 200 ms."""
        worker, (_, channel, wakes) = await site.connect(), await listening(site)
        await command(own_redis, "CONFIG", "RESETSTAT")
        await command(own_redis, "CONFIG", "SET", "slowlog-log-slower-than", "100000")
        answers = [Terminal(new_ref(), bytes(1_000_000), channel) for _ in range(32)]
        assert await worker.finish(answers) == WRITTEN * 32
        await site.until(lambda: len(wakes) == 32)
        assert [wake.payload for wake in wakes] == [None] * 32
        stats = await command(own_redis, "INFO", "commandstats")
        assert int(re.findall(rb"cmdstat_evalsha:calls=(\d+)", stats)[0]) == 32
        assert await command(own_redis, "SLOWLOG", "LEN") == 0


DURABLE = {"appendonly": "yes", "appendfsync": "always"}


@pytest.mark.parametrize("own_redis", [DURABLE], indirect=True)
class TestTheFenceSurvives:
    async def test_a_restart_and_a_rewrite_also_when_trimmed(self, site: RedisSite, own_redis: RedisServer) -> None:
        store = await site.connect()
        whole, trimmed, claimed, cut = (new_ref() for _ in range(4))
        await store.claim(new_claim(claimed))
        await store.finish([Terminal(ref, b"x" * 2000) for ref in (whole, trimmed, claimed, cut)])
        await store.trim([trimmed, claimed])
        await command(own_redis, "XTRIM", site.names.result_key(cut), "MAXLEN", "0")

        async def holds() -> None:
            late = [Terminal(ref, b"late") for ref in (whole, trimmed, claimed, cut)]
            assert await eventually(site, lambda: store.finish(late)) == ALREADY * 4
            states = await store.look([whole, trimmed, claimed, cut])
            assert [state and (state.state, state.payload) for state in states] == [
                ("done", b"x" * 2000),
                ("done", b""),
                ("done", b""),
                ("done", b""),
            ]
            assert (await store.claim(new_claim(claimed, fingerprint="f2"))).state is ClaimState.MISMATCH

        await holds()
        await asyncio.to_thread(own_redis.restart)
        await holds()
        await command(own_redis, "BGREWRITEAOF")

        async def rewritten() -> bool:
            said = (await command(own_redis, "INFO", "persistence")).decode()
            return "aof_rewrite_in_progress:0" in said and "aof_last_bgrewrite_status:ok" in said

        await site.until_true(rewritten)
        await asyncio.to_thread(own_redis.restart)
        await holds()
