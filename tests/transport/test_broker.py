"""What only the embedded broker does: how long records are kept, and what happens to members that return."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from protocol.errors import NotFound, Unavailable
from protocol.ports import Assigned, OutRecord
from protocol.transport.embedded.broker import MemoryBroker
from protocol.transport.embedded.memory import MemoryBus
from tests.transport.bus_site import Owner, numbered, values

TOPIC = "t.infer.m.1"


@pytest.fixture
async def bus() -> AsyncIterator[MemoryBus]:
    bus = MemoryBus(MemoryBroker(session_timeout=0.2))
    await bus.open()
    await bus.ensure_topic(TOPIC, 2)
    yield bus
    await bus.close()


async def test_a_record_goes_when_every_group_has_committed_it(bus: MemoryBus) -> None:
    await bus.publish(TOPIC, numbered(4), partition=0)
    one = await bus.subscribe(TOPIC, "x", "a", Owner())
    two = await bus.subscribe(TOPIC, "y", "a", Owner())
    await one.commit({0: 4})
    assert await bus.read_record(TOPIC, 0, 3) is not None
    await two.commit({0: 3})
    assert await bus.read_record(TOPIC, 0, 2) is None
    assert await bus.read_record(TOPIC, 0, 3) is not None
    owner = Owner()
    await bus.subscribe(TOPIC, "z", "a", owner)
    assert owner.owned[0] == Assigned(0, committed=3, end=4, start=3)


async def test_a_commit_never_goes_back_nor_past_the_end(bus: MemoryBus) -> None:
    await bus.publish(TOPIC, numbered(4), partition=0)
    consumer = await bus.subscribe(TOPIC, TOPIC, "a", Owner())
    await consumer.commit({0: 3})
    await consumer.commit({0: 1})
    assert await consumer.lag() == 1
    await consumer.commit({0: 100})
    await bus.publish(TOPIC, numbered(1), partition=0)
    assert await consumer.lag() == 1


async def test_a_commit_of_more_than_it_owns_changes_nothing(bus: MemoryBus) -> None:
    await bus.publish(TOPIC, numbered(4), partition=0)
    consumer = await bus.subscribe(TOPIC, TOPIC, "a", Owner())
    with pytest.raises(Unavailable, match=r"does not own partitions \[7\]"):
        await consumer.commit({0: 4, 7: 1})
    assert await consumer.lag() == 4
    await consumer.commit({})


async def test_a_topic_that_nobody_consumes_keeps_its_newest_bytes() -> None:
    bus = MemoryBus(MemoryBroker(retention=100))
    await bus.open()
    await bus.ensure_topic("t.dead.m", 1)
    await bus.ensure_topic("t.models", 1, compacted=True)
    for n in range(10):
        await bus.publish("t.dead.m", [OutRecord(bytes(30))])
        await bus.publish("t.models", [OutRecord(bytes(30), key=b"%d" % n)])
    assert [await bus.read_record("t.dead.m", 0, n) is not None for n in range(10)] == [False] * 7 + [True] * 3
    assert await bus.read_record("t.models", 0, 0) is not None
    await bus.close()


async def test_a_full_log_refuses_until_there_is_room() -> None:
    bus = MemoryBus(MemoryBroker(max_bytes=100))
    await bus.open()
    await bus.ensure_topic(TOPIC, 1)
    await bus.publish(TOPIC, [OutRecord(bytes(60))])
    consumer = await bus.subscribe(TOPIC, TOPIC, "a", Owner())
    await bus.publish(TOPIC, [OutRecord(bytes(60))])
    with pytest.raises(Unavailable, match="120 bytes of records wait for workers; the limit is 100"):
        await bus.publish(TOPIC, [OutRecord(b"x")])
    assert len(await consumer.fetch(10, 0.0)) == 2
    await consumer.commit({0: 1})
    await bus.publish(TOPIC, [OutRecord(b"x")])
    await bus.close()


async def test_a_partition_that_does_not_exist_is_not_found(bus: MemoryBus) -> None:
    for partition in (2, -1):
        with pytest.raises(NotFound, match=f"has no partition {partition}: it has 2"):
            await bus.publish(TOPIC, numbered(1), partition=partition)
    with pytest.raises(NotFound):
        await bus.subscribe("t.infer.none.1", "g", "a", Owner())
    with pytest.raises(NotFound):
        await anext(bus.follow("t.infer.none.1"))


async def test_an_evicted_member_that_lives_joins_again(bus: MemoryBus) -> None:
    await bus.publish(TOPIC, numbered(2), partition=0)
    owner = Owner()
    consumer = await bus.subscribe(TOPIC, TOPIC, "a", owner)
    member = consumer.member
    assert len(await consumer.fetch(10, 0.0)) == 2
    await bus.evict(TOPIC, ["a"])
    assert (owner.owned, consumer.member) == ({}, "")
    with pytest.raises(Unavailable):
        await consumer.commit({0: 2})
    assert len(await consumer.fetch(10, 0.0)) == 2
    assert sorted(owner.owned) == [0, 1]
    assert owner.epochs == [1, 2]
    assert consumer.member not in {"", member}


async def test_a_replaced_member_is_told_so(bus: MemoryBus) -> None:
    owner = Owner()
    first = await bus.subscribe(TOPIC, TOPIC, "a", owner)
    waiting = asyncio.ensure_future(first.fetch(10, 30.0))
    await asyncio.sleep(0)
    second = await bus.subscribe(TOPIC, TOPIC, "a", Owner())
    with pytest.raises(Unavailable, match="was replaced by another process"):
        await waiting
    with pytest.raises(Unavailable, match="was replaced by another process"):
        await first.fetch(10, 0.0)
    assert owner.owned == {}
    await bus.publish(TOPIC, numbered(1))
    assert len(await second.fetch(10, 0.0)) == 1


async def test_closing_ends_a_waiting_fetch(bus: MemoryBus) -> None:
    consumer = await bus.subscribe(TOPIC, TOPIC, "a", Owner())
    waiting = asyncio.ensure_future(consumer.fetch(10, 30.0))
    await asyncio.sleep(0)
    await consumer.close()
    assert await waiting == []
    with pytest.raises(Unavailable, match="was closed"):
        await consumer.fetch(10, 0.0)
    with pytest.raises(Unavailable):
        await consumer.commit({0: 0})


async def test_closing_the_bus_ends_its_consumers_and_followers(bus: MemoryBus) -> None:
    await bus.ensure_topic("t.models", 1, compacted=True)
    consumer = await bus.subscribe(TOPIC, TOPIC, "a", Owner())
    fetching = asyncio.ensure_future(consumer.fetch(10, 30.0))

    async def follow() -> list[Sequence[object]]:
        return [part async for part in bus.follow("t.models")]

    following = asyncio.ensure_future(follow())
    await asyncio.sleep(0)
    await bus.close()
    assert await asyncio.wait_for(fetching, 5) == []
    assert await asyncio.wait_for(following, 5) == [[]]


async def test_records_wake_the_owner_only_of_their_partition(bus: MemoryBus) -> None:
    one, two = [await bus.subscribe(TOPIC, TOPIC, member, Owner()) for member in "ab"]
    ones = asyncio.ensure_future(one.fetch(10, 0.1))
    twos = asyncio.ensure_future(two.fetch(10, 30.0))
    await asyncio.sleep(0)
    await bus.publish(TOPIC, numbered(3), partition=1)
    assert values(await twos) == values_of(3)
    assert await ones == []


async def test_a_fetch_that_is_full_does_not_starve_a_partition(bus: MemoryBus) -> None:
    for partition in (0, 1):
        await bus.publish(TOPIC, numbered(100), partition=partition)
    consumer = await bus.subscribe(TOPIC, TOPIC, "a", Owner())
    seen = {record.partition for _ in range(2) for record in await consumer.fetch(10, 0.0)}
    assert seen == {0, 1}


async def test_the_topic_of_a_slow_compaction_stays_small(bus: MemoryBus) -> None:
    await bus.ensure_topic("t.models", 1, compacted=True)
    for n in range(1000):
        await bus.publish("t.models", [OutRecord(b"%d" % n, key=b"k%d" % (n % 3))])
    past = await anext(bus.follow("t.models"))
    assert len(past) < 100
    assert values(past)[-3:] == [b"997", b"998", b"999"]


def values_of(count: int) -> list[bytes]:
    return [record.value for record in numbered(count)]
