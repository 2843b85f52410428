"""Heartbeats on a real Redis: beside processes of wire version 1, over losses of data, and how much of them is read."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest

from protocol import frames
from protocol.heartbeat_codec import decode_heartbeat, encode_heartbeat
from protocol.messages import Heartbeat, ModelLoad, ModelState
from protocol.transport.redis import directory
from protocol.transport.redis.client import Client, Subscriptions
from protocol.transport.redis.store import RedisStore
from tests.transport.contract_results import beat_of
from tests.transport.test_redis import RedisSite

pytestmark = pytest.mark.servers


@pytest.fixture
async def site(redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RedisSite]:
    monkeypatch.setattr(directory, "LOOK_FOR_OLD", 0.0)
    site = RedisSite(redis_url, prefix)
    yield site
    await site.close()


class Version1:
    """What a process of wire version 1 does: whole heartbeats in one hash, and a gateway listens to one channel."""

    def __init__(self, store: RedisStore, site: RedisSite) -> None:
        self.client: Client = store._client
        self.listening: Subscriptions = store._listening
        self.names = site.names
        self.asks: list[bytes] = []

    async def beat(self, worker: str, at: float, asked: tuple[str, ...] | None = None) -> Heartbeat:
        statistics = {"inference_count": 4, "batch_stats": [{"batch_size": 2, "compute_infer": {"count": 2, "ns": 5}}]}
        load = ModelLoad("m", "1", ModelState.READY, (1,), queued_rows=3, statistics=statistics, digest="d")
        beat = Heartbeat(worker, "i", "h", 1, at, (load,), {"g": "x"}, asked=asked)
        await self.client.call("HSET", self.names.workers_key, worker, encode_heartbeat(beat))
        return beat

    async def heartbeats(self) -> dict[str, list[object]]:
        """By worker, what its decoder took of the first model: eleven fields, a digest, and the batch lane."""
        values = await self.client.call("HVALS", self.names.workers_key)
        heads = [frames.unpack(value) for value in values]
        return {head["worker"]: head["models"][0][:16] for head in heads if head["v"] == 1}

    async def listen(self) -> None:
        await self.listening.listen(self.names.gateway_channel("old"), lambda message: None)

    async def leave(self) -> None:
        self.listening.unlisten(self.names.gateway_channel("old"))
        name = self.names.gateway_channel("old")
        while name.encode() in await self.client.call("PUBSUB", "CHANNELS", name):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def old(site: RedisSite) -> Version1:
    return Version1(await site.connect(), site)


async def now(store: RedisStore, beat: Heartbeat) -> Heartbeat:
    return dataclasses.replace(beat, at=round(await store.now(), 6))


async def test_an_old_worker_is_seen_by_new_readers_until_it_leaves(site: RedisSite) -> None:
    before, store, reader = await old(site), await site.connect(), await site.connect()
    theirs = await before.beat("old", round(await store.now(), 6), asked=())
    ours = await now(store, beat_of("new"))
    await store.beat(ours)
    assert sorted(await reader.workers(), key=lambda beat: beat.worker) == [ours, theirs]
    assert sorted(pulse.worker for pulse in await reader.pulses()) == ["new", "old"]
    assert [pulse.at for pulse in await reader.pulses(["old"])] == [theirs.at]
    answer = await before.beat("old", round(theirs.at + 0.1, 6), asked=("question",))
    assert await reader.answers(["old"]) == [answer]
    await reader.forget("old")
    assert await reader.workers() == [ours]
    assert await before.heartbeats() != {}
    await store.beat(ours)
    assert await before.heartbeats() == {}


async def test_old_readers_see_a_new_worker_as_long_as_they_are_there(site: RedisSite) -> None:
    before, store = await old(site), await site.connect()
    beat = await now(store, beat_of("new"))
    await store.beat(beat)
    assert await before.heartbeats() == {}
    await before.listen()
    await store.beat(beat)
    (load,) = (await before.heartbeats()).values()
    model, version, state, partitions, *counts, statistics, digest, _, _, _, _ = load
    assert (model, version, state, partitions, counts[3], digest) == ("m", "1", "READY", [0, 3], 4, "")
    assert statistics == {
        "inference_count": 5,
        "last_inference": 9000,
        "batch_stats": [{"batch_size": 2, "compute_infer": {"count": 2, "ns": 1000}}],
    }
    await before.leave()
    await store.beat(beat)
    assert await before.heartbeats() == {}


async def test_an_old_readers_question_is_answered_where_it_looks(site: RedisSite) -> None:
    before, store = await old(site), await site.connect()
    await before.listen()
    beat = await now(store, beat_of("new"))
    (load,) = beat.models
    whole = dataclasses.replace(load, statistics={"inference_count": 7})
    await store.answer(dataclasses.replace(beat, asked=("question",), models=(whole,)))
    (value,) = await before.client.call("HVALS", site.names.workers_key)
    seen = decode_heartbeat(value)
    assert (seen.asked, seen.models[0].statistics) == (("question",), {"inference_count": 7})


async def test_new_gateways_are_no_reason_to_write_what_only_old_ones_read(site: RedisSite) -> None:
    before, store, gateway = await old(site), await site.connect(), await site.connect()
    await gateway.listen(site.names.gateway_channel("new"), lambda wakes: None)
    await store.beat(await now(store, beat_of("w")))
    assert await before.heartbeats() == {}
    await before.listen()
    await store.beat(await now(store, beat_of("w")))
    assert list(await before.heartbeats()) == ["w"]


async def test_a_worker_that_goes_back_to_the_old_version_is_seen(site: RedisSite) -> None:
    before, store, reader = await old(site), await site.connect(), await site.connect()
    time = round(await store.now(), 6)
    await store.beat(dataclasses.replace(beat_of("w"), at=time - 60))  # killed, and started again as version 1
    theirs = await before.beat("w", time)
    assert await reader.workers() == [theirs]
    assert [pulse.at for pulse in await reader.pulses()] == [time]


async def test_a_worker_of_the_new_version_removes_what_it_left_as_an_old_one(site: RedisSite) -> None:
    before, store, reader = await old(site), await site.connect(), await site.connect()
    await before.beat("w", round(await store.now(), 6) - 1)
    beat = await now(store, beat_of("w"))
    await store.beat(beat)
    await store.beat(beat)
    assert await before.heartbeats() == {}
    assert await reader.workers() == [beat]


async def test_a_store_that_lost_everything_has_everything_after_the_next_heartbeat(site: RedisSite) -> None:
    store, reader = await site.connect(), await site.connect()
    beat = await now(store, beat_of("w"))
    await store.beat(beat)
    assert await reader.workers() == [beat]
    names = site.names
    await store._client.call("DEL", names.pulses_key, names.descriptions_key, names.loads_key)
    assert await reader.workers() == []
    await store.beat(beat)
    assert await (await site.connect()).workers() == [beat]


async def test_what_another_process_wrote_meanwhile_is_replaced(site: RedisSite) -> None:
    """A worker answers an ask by itself; then its supervisor repeats what it was told last."""
    worker, supervisor, reader = await site.connect(), await site.connect(), await site.connect()
    beat = dataclasses.replace(await now(worker, beat_of("w")), asked=())
    await supervisor.beat(beat)
    await worker.answer(dataclasses.replace(beat, mode="explicit", asked=("a",)))
    assert [seen.mode for seen in await reader.workers()] == ["explicit"]
    await supervisor.beat(dataclasses.replace(beat, asked=("a",)))
    assert [seen.mode for seen in await reader.workers()] == [""]


async def test_nothing_is_read_twice(site: RedisSite) -> None:
    store, reader = await site.connect(), await site.connect()
    beat = await now(store, beat_of("w"))
    await store.beat(beat)
    (first,) = await reader.workers()
    await store.beat(dataclasses.replace(beat, at=beat.at + 0.5))
    (second,) = await reader.workers()
    assert second.models is first.models
    assert second.at == beat.at + 0.5


@pytest.mark.parametrize("key", ["pulses_key", "descriptions_key", "loads_key", "workers_key"])
@pytest.mark.parametrize("value", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x80", b"\x95\x02\xa1i\x00\x00\x00"])
async def test_what_a_stranger_writes_hides_nobody_else(site: RedisSite, key: str, value: bytes) -> None:
    store, reader = await site.connect(), await site.connect()
    beat = await now(store, beat_of("w"))
    await store.beat(beat)
    stranger = b"\xff\x00stranger"
    for name in {key, "pulses_key"}:
        await store._client.call("HSET", getattr(site.names, name), stranger, value)
    for _ in range(2):
        assert await reader.workers() == [beat]
        assert [pulse.worker for pulse in await reader.pulses()] == ["w"]
        assert await reader.pulses(["w", "stranger"]) == await reader.pulses(["w"])
        await store.beat(beat)
