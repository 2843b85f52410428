"""What every bus must do. `tests/transport/test_*.py` inherit `BusContract` and give it a `site`: somewhere real to run.

A crash is a member that stops without committing (`Site.crash`); a process of its own is a bus of its own (`Site.connect`).
Nothing here sleeps for a fixed time: tests wait for a condition, or for the deadline that they are about.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Sequence

import pytest

from protocol.codec import MAX_RECORD
from protocol.errors import FleetError, NotFound, TooLarge, Unavailable
from protocol.ports import Assigned, Bus, Consumer, OutRecord, Record

POLL = 0.02


class Site(abc.ABC):
    """One broker, and topic names that no other test uses.

    Attributes:
        session_timeout: seconds after which this broker takes a silent member for dead.
        patience: seconds that any condition may take to become true.
    """

    session_timeout: float = 10.0
    patience: float = 20.0

    @abc.abstractmethod
    async def connect(self) -> Bus:
        """One more process's bus on the same broker, open; closed by the site at the end of the test."""

    @abc.abstractmethod
    def topic(self, name: str) -> str:
        """A topic's full name, unique to this test."""

    async def crash(self, consumer: Consumer) -> None:
        """The member stops as if its process had been killed: nothing is committed, the group is not told."""
        await consumer.close()

    async def until(self, condition: Callable[[], bool], *polling: Consumer) -> None:
        """Wait for a condition while these members keep polling without taking anything."""
        async with asyncio.timeout(self.patience):
            while not condition():
                await asyncio.gather(*(consumer.fetch(1, POLL, ()) for consumer in polling), asyncio.sleep(POLL / 4))


class Owner:
    """A listener that remembers what it was told."""

    def __init__(self) -> None:
        self.owned: dict[int, Assigned] = {}
        self.epochs: list[int] = []
        self.revocations: list[set[int]] = []

    def assigned(self, epoch: int, partitions: Sequence[Assigned]) -> None:
        self.epochs.append(epoch)
        self.owned.update({entry.partition: entry for entry in partitions})

    def revoked(self, partitions: Collection[int]) -> None:
        self.revocations.append(set(partitions))
        for partition in partitions:
            del self.owned[partition]


def numbered(count: int, first: int = 0) -> list[OutRecord]:
    return [OutRecord(b"record %d" % number) for number in range(first, first + count)]


def values(records: Sequence[Record]) -> list[bytes]:
    return [bytes(record.value) for record in records]


async def take(consumer: Consumer, count: int, patience: float = 20.0) -> list[Record]:
    """Fetch until there are `count` records; fewer when `patience` runs out."""
    records: list[Record] = []
    end = time.monotonic() + patience
    while len(records) < count and time.monotonic() < end:
        records += await consumer.fetch(count - len(records), min(0.5, patience))
    return records


async def nothing_comes(consumer: Consumer, seconds: float = 0.3) -> bool:
    return not await take(consumer, 1, seconds)


async def refused_or_harmless(call: Awaitable[object]) -> None:
    """A call of a member that no longer owns: it may say `Unavailable`, or do nothing."""
    with contextlib.suppress(Unavailable):
        await call


class BusContract:
    """Inherit, and give the fixture `site`."""

    @pytest.fixture
    async def bus(self, site: Site) -> Bus:
        return await site.connect()

    async def joined(
        self, site: Site, bus: Bus, topic: str, member: str, partitions: int, group: str | None = None
    ) -> tuple[Consumer, Owner]:
        """A member that owns `partitions` partitions."""
        owner = Owner()
        consumer = await bus.subscribe(topic, group or topic, member, owner)
        await site.until(lambda: len(owner.owned) == partitions, consumer)
        return consumer, owner

    # --- topics and publishing ---------------------------------------------------------------------------------------

    async def test_ensure_topic_creates_once_and_tells_the_number_of_partitions(self, site: Site, bus: Bus) -> None:
        topic = site.topic("made")
        assert await bus.ensure_topic(topic, 3) == 3
        assert await bus.ensure_topic(topic, 5) == 3
        assert await (await site.connect()).ensure_topic(topic, 1) == 3

    async def test_a_record_arrives_as_it_was_published(self, site: Site, bus: Bus) -> None:
        topic = site.topic("whole")
        await bus.ensure_topic(topic, 1)
        raw = bytes(range(256))
        sent = OutRecord(raw, [("id", b"one"), ("raw", raw), ("empty", b"")], key=b"k\xff", timestamp=1_700_000_000.25)
        published = await bus.publish(topic, [sent])
        consumer, _ = await self.joined(site, bus, topic, "a", 1)
        (got,) = await take(consumer, 1)
        assert (got.topic, got.partition, got.offset) == (topic, published.partition, published.offset)
        assert bytes(got.value) == raw
        assert [(name, bytes(value)) for name, value in got.headers] == [("id", b"one"), ("raw", raw), ("empty", b"")]
        assert got.key == b"k\xff"
        assert got.timestamp == pytest.approx(1_700_000_000.25, abs=0.001)

    async def test_a_record_without_a_time_is_stamped_at_publication(self, site: Site, bus: Bus) -> None:
        topic = site.topic("stamped")
        await bus.ensure_topic(topic, 1)
        published = await bus.publish(topic, numbered(1))
        record = await bus.read(topic, published.partition, published.offset)
        assert record is not None
        assert record.timestamp == pytest.approx(time.time(), abs=30)
        assert published.timestamp == pytest.approx(record.timestamp, abs=0.002)

    async def test_order_within_a_partition_with_consecutive_offsets(self, site: Site, bus: Bus) -> None:
        topic = site.topic("ordered")
        await bus.ensure_topic(topic, 2)
        first = await bus.publish(topic, numbered(50), partition=1)
        second = await bus.publish(topic, numbered(50, 50), partition=1)
        assert (first.partition, second.partition, second.offset) == (1, 1, first.offset + 50)
        consumer, _ = await self.joined(site, bus, topic, "a", 2)
        records = await take(consumer, 100)
        assert values(records) == [record.value for record in numbered(100)]
        assert [record.offset for record in records] == list(range(first.offset, first.offset + 100))

    async def test_groups_stay_together_and_take_turns_over_the_partitions(self, site: Site, bus: Bus) -> None:
        topic = site.topic("turns")
        await bus.ensure_topic(topic, 4)
        groups = [await bus.publish(topic, numbered(5, 5 * turn)) for turn in range(8)]
        assert sorted(group.partition for group in groups) == [0, 0, 1, 1, 2, 2, 3, 3]
        consumer, _ = await self.joined(site, bus, topic, "a", 4)
        where = {bytes(record.value): (record.partition, record.offset) for record in await take(consumer, 40)}
        for turn, group in enumerate(groups):
            expected = [(group.partition, group.offset + i) for i in range(5)]
            assert [where[record.value] for record in numbered(5, 5 * turn)] == expected

    async def test_groups_of_two_processes_are_not_mixed(self, site: Site, bus: Bus) -> None:
        topic = site.topic("unmixed")
        await bus.ensure_topic(topic, 1)
        other = await site.connect()
        groups = await asyncio.gather(
            *(
                publisher.publish(topic, [OutRecord(b"%d" % turn)] * 8)
                for turn, publisher in enumerate([bus, other] * 10)
            )
        )
        consumer, _ = await self.joined(site, bus, topic, "a", 1)
        by_offset = {record.offset: bytes(record.value) for record in await take(consumer, 160)}
        for turn, group in enumerate(groups):
            assert [by_offset[group.offset + i] for i in range(8)] == [b"%d" % turn] * 8

    async def test_publishing_to_an_unknown_topic_is_not_found(self, site: Site, bus: Bus) -> None:
        with pytest.raises(NotFound):
            await bus.publish(site.topic("nowhere"), numbered(1))

    async def test_a_record_over_the_limit_is_refused_with_its_group(self, site: Site, bus: Bus) -> None:
        topic = site.topic("large")
        await bus.ensure_topic(topic, 1)
        with pytest.raises(TooLarge):
            await bus.publish(topic, [*numbered(1), OutRecord(bytes(MAX_RECORD + 1))])
        large = bytes(MAX_RECORD - 64 * 1024)
        await bus.publish(topic, [OutRecord(large)])
        consumer, _ = await self.joined(site, bus, topic, "a", 1)
        assert [len(value) for value in values(await take(consumer, 1))] == [len(large)]

    async def test_a_closed_bus_is_not_healthy_and_takes_nothing(self, site: Site, bus: Bus) -> None:
        topic = site.topic("closed")
        await bus.ensure_topic(topic, 1)
        assert await bus.healthy()
        await bus.close()
        assert not await bus.healthy()
        with pytest.raises(Unavailable):
            await bus.publish(topic, numbered(1))
        await bus.close()

    # --- fetching ----------------------------------------------------------------------------------------------------

    async def test_a_new_group_starts_at_the_earliest_record(self, site: Site, bus: Bus) -> None:
        topic = site.topic("earliest")
        await bus.ensure_topic(topic, 1)
        await bus.publish(topic, numbered(3))
        consumer, owner = await self.joined(site, bus, topic, "a", 1)
        assert owner.owned[0] == Assigned(partition=0, committed=0, end=3, start=0)
        assert consumer.member
        assert len(await take(consumer, 3)) == 3

    async def test_every_group_gets_every_record(self, site: Site, bus: Bus) -> None:
        topic = site.topic("groups")
        await bus.ensure_topic(topic, 2)
        await bus.publish(topic, numbered(4))
        for group in (f"{topic}-x", f"{topic}-y"):
            consumer, _ = await self.joined(site, bus, topic, "a", 2, group)
            assert len(await take(consumer, 4)) == 4

    async def test_fetch_returns_at_most_so_many_and_the_rest_later(self, site: Site, bus: Bus) -> None:
        topic = site.topic("bounded")
        await bus.ensure_topic(topic, 3)
        for turn in range(3):
            await bus.publish(topic, numbered(10, 10 * turn))
        consumer, _ = await self.joined(site, bus, topic, "a", 3)
        records: list[Record] = []
        async with asyncio.timeout(site.patience):
            while len(records) < 30:
                part = await consumer.fetch(7, 0.5)
                assert len(part) <= 7
                records += part
        for partition in range(3):
            assert [record.offset for record in records if record.partition == partition] == list(range(10))

    async def test_fetch_wakes_up_when_a_record_comes(self, site: Site, bus: Bus) -> None:
        topic = site.topic("woken")
        await bus.ensure_topic(topic, 2)
        consumer, _ = await self.joined(site, bus, topic, "a", 2)
        waiting = asyncio.ensure_future(consumer.fetch(10, site.patience))
        await asyncio.sleep(POLL)
        assert not waiting.done()
        began = time.monotonic()
        await bus.publish(topic, numbered(2))
        assert len(await waiting) >= 1
        assert time.monotonic() - began < site.patience / 4

    async def test_fetch_gives_up_after_its_timeout(self, site: Site, bus: Bus) -> None:
        topic = site.topic("quiet")
        await bus.ensure_topic(topic, 1)
        consumer, _ = await self.joined(site, bus, topic, "a", 1)
        began = time.monotonic()
        assert await consumer.fetch(10, 0.1) == []
        assert 0.08 <= time.monotonic() - began < site.patience / 2
        assert await consumer.fetch(10, 0.0) == []

    async def test_a_cancelled_fetch_loses_nothing(self, site: Site, bus: Bus) -> None:
        topic = site.topic("cancelled")
        await bus.ensure_topic(topic, 1)
        consumer, _ = await self.joined(site, bus, topic, "a", 1)
        for _ in range(3):
            waiting = asyncio.ensure_future(consumer.fetch(10, site.patience))
            await asyncio.sleep(POLL)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await bus.publish(topic, numbered(3))
        assert values(await take(consumer, 3)) == [record.value for record in numbered(3)]

    async def test_fetching_from_some_partitions_leaves_the_others(self, site: Site, bus: Bus) -> None:
        topic = site.topic("subset")
        await bus.ensure_topic(topic, 2)
        await bus.publish(topic, numbered(3), partition=0)
        await bus.publish(topic, numbered(3, 3), partition=1)
        consumer, _ = await self.joined(site, bus, topic, "a", 2)
        records: list[Record] = []
        async with asyncio.timeout(site.patience):
            while len(records) < 3:
                records += await consumer.fetch(10, 0.2, [1])
        assert values(records) == [record.value for record in numbered(3, 3)]
        assert await consumer.fetch(10, 0.1, [1]) == []
        assert values(await take(consumer, 3)) == [record.value for record in numbered(3)]

    async def test_fetching_from_no_partition_returns_nothing_and_loses_nothing(self, site: Site, bus: Bus) -> None:
        topic = site.topic("full")
        await bus.ensure_topic(topic, 1)
        consumer, _ = await self.joined(site, bus, topic, "a", 1)
        await bus.publish(topic, numbered(3))
        began = time.monotonic()
        assert await consumer.fetch(10, 0.1, ()) == []
        assert time.monotonic() - began >= 0.08
        assert values(await take(consumer, 3)) == [record.value for record in numbered(3)]

    async def test_backlog_counts_what_is_known_behind_the_last_fetch(self, site: Site, bus: Bus) -> None:
        topic = site.topic("backlog")
        await bus.ensure_topic(topic, 1)
        await bus.publish(topic, numbered(10))
        consumer, _ = await self.joined(site, bus, topic, "a", 1)
        assert len(await take(consumer, 4)) == 4
        assert consumer.backlog() == 6
        assert len(await take(consumer, 6)) == 6
        assert consumer.backlog() == 0

    async def test_lag_counts_what_is_not_committed(self, site: Site, bus: Bus) -> None:
        topic = site.topic("lag")
        await bus.ensure_topic(topic, 2)
        await bus.publish(topic, numbered(10), partition=0)
        await bus.publish(topic, numbered(5), partition=1)
        consumer, _ = await self.joined(site, bus, topic, "a", 2)
        assert await consumer.lag() == 15
        await take(consumer, 15)
        assert await consumer.lag() == 15
        await consumer.commit({0: 4})
        assert await consumer.lag() == 11
        await consumer.commit({0: 10, 1: 5})
        assert await consumer.lag() == 0

    # --- crashes -----------------------------------------------------------------------------------------------------

    async def test_fetched_and_not_committed_comes_again_after_a_crash(self, site: Site, bus: Bus) -> None:
        topic = site.topic("again")
        await bus.ensure_topic(topic, 1)
        await bus.publish(topic, numbered(6))
        first, _ = await self.joined(site, bus, topic, "a", 1)
        assert len(await take(first, 6)) == 6
        await site.crash(first)
        second, _ = await self.joined(site, await site.connect(), topic, "a", 1)
        assert values(await take(second, 6)) == [record.value for record in numbered(6)]

    async def test_a_replacement_with_the_same_id_goes_on_at_the_commit(self, site: Site, bus: Bus) -> None:
        topic = site.topic("resume")
        await bus.ensure_topic(topic, 1)
        await bus.publish(topic, numbered(6))
        first, _ = await self.joined(site, bus, topic, "a", 1)
        await take(first, 6)
        await first.commit({0: 4})
        await site.crash(first)
        began = time.monotonic()
        second, owner = await self.joined(site, await site.connect(), topic, "a", 1)
        assert time.monotonic() - began < site.session_timeout, "the replacement waited for the dead member's session"
        assert owner.owned[0] == Assigned(partition=0, committed=4, end=6, start=owner.owned[0].start)
        assert owner.owned[0].start <= 4
        assert values(await take(second, 2)) == [b"record 4", b"record 5"]
        assert await nothing_comes(second)

    async def test_the_replaced_member_gets_and_commits_nothing(self, site: Site, bus: Bus) -> None:
        topic = site.topic("fenced")
        await bus.ensure_topic(topic, 1)
        await bus.publish(topic, numbered(6))
        first, _ = await self.joined(site, bus, topic, "a", 1)
        await take(first, 2)
        second, owner = await self.joined(site, await site.connect(), topic, "a", 1)
        await take(second, 6)
        await second.commit({0: 3})
        await refused_or_harmless(first.commit({0: 6}))
        await site.crash(second)
        third, owner = await self.joined(site, await site.connect(), topic, "a", 1)
        assert owner.owned[0].committed == 3
        assert len(await take(third, 3)) == 3
        with contextlib.suppress(FleetError):
            assert await first.fetch(10, 0.1) == []
        await first.close()

    async def test_members_share_the_partitions_and_epochs_grow(self, site: Site, bus: Bus) -> None:
        topic = site.topic("shared")
        await bus.ensure_topic(topic, 4)
        one, first = await self.joined(site, bus, topic, "a", 4)
        second = Owner()
        two = await (await site.connect()).subscribe(topic, topic, "b", second)
        await site.until(lambda: len(first.owned) == 2 and len(second.owned) == 2, one, two)
        assert sorted([*first.owned, *second.owned]) == [0, 1, 2, 3]
        assert first.revocations[0] >= set(second.owned)
        for owner in (first, second):
            assert owner.epochs == list(range(owner.epochs[0], owner.epochs[0] + len(owner.epochs)))
        for turn in range(4):
            await bus.publish(topic, numbered(5, 5 * turn), partition=turn)
        got = [await take(one, 10), await take(two, 10)]
        for records, owner in zip(got, (first, second), strict=True):
            assert {record.partition for record in records} == set(owner.owned)

    async def test_revocation_in_mid_batch(self, site: Site, bus: Bus) -> None:
        """Fetched by one, then the partition moves: the other gets it again, and the first one's commit changes nothing."""
        topic = site.topic("moved")
        await bus.ensure_topic(topic, 2)
        for partition in (0, 1):
            await bus.publish(topic, numbered(5), partition=partition)
        one, first = await self.joined(site, bus, topic, "a", 2)
        assert len(await take(one, 10)) == 10
        second = Owner()
        two = await (await site.connect()).subscribe(topic, topic, "b", second)
        await site.until(lambda: len(first.owned) == 1 and len(second.owned) == 1, one, two)
        (moved,) = second.owned
        assert second.owned[moved].committed == 0
        assert second.owned[moved].end == 5
        again = await take(two, 5)
        assert [(record.partition, record.offset) for record in again] == [(moved, offset) for offset in range(5)]
        await two.commit({moved: 2})
        await refused_or_harmless(one.commit({moved: 5}))
        await site.crash(two)
        three, third = await self.joined(site, await site.connect(), topic, "b", 1)
        assert third.owned[moved].committed == 2
        assert [record.offset for record in await take(three, 3)] == [2, 3, 4]

    async def test_a_partition_that_stays_can_still_be_committed(self, site: Site, bus: Bus) -> None:
        topic = site.topic("stayed")
        await bus.ensure_topic(topic, 2)
        for partition in (0, 1):
            await bus.publish(topic, numbered(5), partition=partition)
        one, first = await self.joined(site, bus, topic, "a", 2)
        await take(one, 10)
        second = Owner()
        two = await (await site.connect()).subscribe(topic, topic, "b", second)
        await site.until(lambda: len(first.owned) == 1 and len(second.owned) == 1, one, two)
        (kept,) = first.owned
        await one.commit({kept: 5})
        await site.crash(one)
        _, third = await self.joined(site, await site.connect(), topic, "a", 1)
        assert third.owned[kept].committed == 5

    async def test_an_evicted_member_leaves_its_partitions_to_the_others_at_once(self, site: Site, bus: Bus) -> None:
        topic = site.topic("evicted")
        await bus.ensure_topic(topic, 4)
        one, first = await self.joined(site, bus, topic, "a", 4)
        second = Owner()
        survivor = await site.connect()
        two = await survivor.subscribe(topic, topic, "b", second)
        await site.until(lambda: len(first.owned) == 2 and len(second.owned) == 2, one, two)
        for partition in range(4):
            await bus.publish(topic, numbered(2), partition=partition)
        await take(one, 4)
        await site.crash(one)
        began = time.monotonic()
        await survivor.evict(topic, ["a"])
        await site.until(lambda: len(second.owned) == 4, two)
        assert time.monotonic() - began < site.session_timeout
        assert len(await take(two, 8)) == 8

    async def test_an_evicted_member_that_lives_cannot_commit_what_moved(self, site: Site, bus: Bus) -> None:
        topic = site.topic("zombie")
        await bus.ensure_topic(topic, 2)
        for partition in (0, 1):
            await bus.publish(topic, numbered(4), partition=partition)
        one, first = await self.joined(site, bus, topic, "a", 2)
        await take(one, 8)
        second = Owner()
        survivor = await site.connect()
        two = await survivor.subscribe(topic, topic, "b", second)
        await site.until(lambda: len(second.owned) == 1 and len(first.owned) == 1, one, two)
        await survivor.evict(topic, ["a"])
        await refused_or_harmless(one.commit(dict.fromkeys(second.owned, 4)))
        await one.close()
        await survivor.evict(topic, ["a"])
        await site.until(lambda: len(second.owned) == 2, two)
        assert {entry.committed for entry in second.owned.values()} == {0}
        assert len(await take(two, 8)) == 8

    async def test_evicting_nobody_is_harmless(self, site: Site, bus: Bus) -> None:
        topic = site.topic("nobody")
        await bus.ensure_topic(topic, 1)
        consumer, _ = await self.joined(site, bus, topic, "a", 1)
        await bus.evict(topic, ["stranger"])
        await bus.evict(site.topic("no-group"), ["a"])
        await bus.publish(topic, numbered(1))
        assert len(await take(consumer, 1)) == 1

    async def test_a_silent_member_loses_its_partitions_after_its_session(self, site: Site, bus: Bus) -> None:
        topic = site.topic("silent")
        await bus.ensure_topic(topic, 2)
        one, first = await self.joined(site, bus, topic, "a", 2)
        second = Owner()
        two = await (await site.connect()).subscribe(topic, topic, "b", second)
        await site.until(lambda: len(first.owned) == 1 and len(second.owned) == 1, one, two)
        await site.crash(one)
        await site.until(lambda: len(second.owned) == 2, two)

    async def test_a_full_member_that_fetches_from_no_partition_keeps_its_own(self, site: Site, bus: Bus) -> None:
        topic = site.topic("busy")
        await bus.ensure_topic(topic, 2)
        one, first = await self.joined(site, bus, topic, "a", 2)
        second = Owner()
        two = await (await site.connect()).subscribe(topic, topic, "b", second)
        await site.until(lambda: len(first.owned) == 1 and len(second.owned) == 1, one, two)
        seen = len(first.epochs)
        end = time.monotonic() + 1.5 * site.session_timeout
        await site.until(lambda: time.monotonic() > end, one, two)
        assert len(first.epochs) == seen
        assert len(first.owned) == 1

    # --- following and reading ---------------------------------------------------------------------------------------

    async def test_following_gives_the_past_then_a_mark_then_the_future(self, site: Site, bus: Bus) -> None:
        topic = site.topic("followed")
        await bus.ensure_topic(topic, 1, compacted=True)
        await bus.publish(topic, [OutRecord(b"1", key=b"a"), OutRecord(b"2", key=b"b")])
        following = (await site.connect()).follow(topic)
        past: list[bytes] = []
        async with asyncio.timeout(site.patience):
            while part := await anext(following):
                past += values(part)
            assert past == [b"1", b"2"]
            await bus.publish(topic, [OutRecord(b"3", key=b"a")])
            future = await anext(following)
            assert values(future) == [b"3"]
            assert future[0].key == b"a"
        await following.aclose()  # type: ignore[attr-defined]

    async def test_following_an_empty_topic_gives_the_mark_first(self, site: Site, bus: Bus) -> None:
        topic = site.topic("nothing-yet")
        await bus.ensure_topic(topic, 1, compacted=True)
        following = bus.follow(topic)
        async with asyncio.timeout(site.patience):
            assert await anext(following) == []
            waiting = asyncio.ensure_future(anext(following))  # type: ignore[arg-type]
            await bus.publish(topic, [OutRecord(b"1", key=b"a")])
            assert values(await waiting) == [b"1"]
        await following.aclose()  # type: ignore[attr-defined]

    async def test_a_compacted_topic_keeps_the_last_value_of_every_key(self, site: Site, bus: Bus) -> None:
        topic = site.topic("compacted")
        await bus.ensure_topic(topic, 1, compacted=True)
        for turn in range(60):
            await bus.publish(topic, [OutRecord(b"%d" % turn, key=b"key %d" % (turn % 3))])
        latest: dict[bytes | None, bytes] = {}
        following = bus.follow(topic)
        async with asyncio.timeout(site.patience):
            while part := await anext(following):
                latest.update({record.key: bytes(record.value) for record in part})
        await following.aclose()  # type: ignore[attr-defined]
        assert latest == {b"key 0": b"57", b"key 1": b"58", b"key 2": b"59"}

    async def test_reading_one_record_again(self, site: Site, bus: Bus) -> None:
        topic = site.topic("read")
        await bus.ensure_topic(topic, 2)
        published = await bus.publish(topic, [OutRecord(b"%d" % n, [("id", b"%d" % n)]) for n in range(5)], partition=1)
        record = await (await site.connect()).read(topic, 1, published.offset + 3)
        assert record is not None
        assert (record.offset, bytes(record.value), list(record.headers)) == (
            published.offset + 3,
            b"3",
            [("id", b"3")],
        )

    async def test_reading_what_is_not_there_is_none(self, site: Site, bus: Bus) -> None:
        topic = site.topic("gone")
        await bus.ensure_topic(topic, 1)
        await bus.publish(topic, numbered(2))
        assert await bus.read(topic, 0, 2) is None
        assert await bus.read(topic, 0, 1_000_000) is None
        assert await bus.read(topic, 7, 0) is None
        assert await bus.read(site.topic("never"), 0, 0) is None
