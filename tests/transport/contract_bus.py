"""What every bus must do. `tests/transport/test_*.py` inherit `BusContract` and define its `site`: a real place to run."""

from __future__ import annotations

import asyncio
import time

import pytest

from protocol.codec import encode_request, record_bytes
from protocol.errors import NotFound, TooLarge, Unavailable
from protocol.frames import MAX_RECORD
from protocol.messages import InferRequest
from protocol.ports import Assigned, Bus, OutRecord, Record
from protocol.tensors import Tensor
from tests.transport.bus_site import POLL, Owner, Site, numbered, take, values
from tests.transport.contract_members import MembersContract

__all__ = ["BusContract", "Owner", "Site", "numbered", "take", "values"]


class BusContract(MembersContract):
    """Inherit, and define the fixture `site`."""

    # --- topics and publishing ---------------------------------------------------------------------------------------

    async def test_ensure_topic_creates_once_and_tells_the_number_of_partitions(self, site: Site, bus: Bus) -> None:
        topic = site.topic("made")
        assert await bus.ensure_topic(topic, 3) == 3
        assert await bus.ensure_topic(topic, 5) == 3
        assert await (await site.connect()).ensure_topic(topic, 1) == 3

    async def test_the_partitions_of_a_topic_are_told_and_none_is_created(self, site: Site, bus: Bus) -> None:
        topic = site.topic("counted")
        assert await bus.partitions(topic) == 0
        await bus.ensure_topic(topic, 3)
        assert await bus.partitions(topic) == 3
        assert await bus.partitions(site.topic("uncounted")) == 0

    async def test_partitions_are_raised_for_members_that_have_none(self, site: Site, bus: Bus) -> None:
        topic = site.topic("raised")
        await bus.ensure_topic(topic, 1)
        await bus.publish(topic, numbered(3))
        one, first = await self.joined(site, bus, topic, "a", 1)
        second = Owner()
        other = await site.connect()
        two = await other.subscribe(topic, topic, "b", second)
        await site.until(lambda: len(first.owned) + len(second.owned) == 1 and bool(second.epochs), one, two)
        assert await other.raise_partitions(topic, 4) == 4
        assert await bus.raise_partitions(topic, 3) == 4
        assert await bus.partitions(topic) == 4
        places = [await bus.publish(topic, numbered(2), partition=number) for number in (3, 2, 1)]
        assert [(place.partition, place.offset) for place in places] == [(3, 0), (2, 0), (1, 0)]
        await site.until(lambda: len(first.owned) == len(second.owned) == 2, one, two)
        assert sorted([*first.owned, *second.owned]) == [0, 1, 2, 3]
        got = await take(one, 5 if 0 in first.owned else 4)
        got += await take(two, 9 - len(got))
        assert sorted((record.partition, record.offset) for record in got) == [
            (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1),
        ]  # fmt: skip

    async def test_a_topic_that_does_not_exist_gets_no_partitions(self, site: Site, bus: Bus) -> None:
        with pytest.raises(NotFound):
            await bus.raise_partitions(site.topic("nowhere"), 3)

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

    async def test_a_message_arrives_as_it_was_published(self, site: Site, bus: Bus) -> None:
        topic = site.topic("message")
        await bus.ensure_topic(topic, 1)
        request = InferRequest(
            "r", "m", "1", (Tensor("X", "INT8", (3,), b"abc"),), ("Y",), {"p": 1}, "label", accepted=5.0, published=6.0
        )
        sent = OutRecord(b"", (), b"key", request.published, request, 1000)
        published = await bus.publish(topic, [sent, *numbered(1), sent])
        consumer, _ = await self.joined(site, bus, topic, "a", 1)
        records = await take(consumer, 3)
        again = await bus.read_record(topic, published.partition, published.offset)
        for got in (records[0], records[2], again):
            assert got is not None
            assert got.key == b"key"
            assert record_bytes(got) == encode_request(request)
            assert (got.request is request) == (bus.immediate is not None)
        assert values(records[1:2]) == [b"record 0"]

    async def test_what_is_published_at_once_is_acknowledged_at_once(self, site: Site, bus: Bus) -> None:
        topic = site.topic("at-once")
        await bus.ensure_topic(topic, 1)
        consumer, owner = await self.joined(site, bus, topic, "a", 1)
        if bus.immediate is None:
            return
        waiting = asyncio.ensure_future(consumer.fetch(10, 5.0))
        await asyncio.sleep(0)
        published = bus.immediate.publish_now(topic, numbered(2))
        assert (published.partition, published.offset) == (0, 0)
        assert owner.arrivals == 0, "nobody is called back inside the call"
        assert values(await waiting) == [b"record 0", b"record 1"]

    async def test_messages_that_arrive_while_a_fetch_waits_may_be_taken_at_once(self, site: Site, bus: Bus) -> None:
        topic = site.topic("arriving")
        await bus.ensure_topic(topic, 1)
        consumer, owner = await self.joined(site, bus, topic, "a", 1)
        owner.room = 2
        messages = [OutRecord(b"", (), None, 1.0, InferRequest(f"r{n}", "m", "1", ()), 10) for n in range(3)]
        waiting = asyncio.ensure_future(consumer.fetch(10, 5.0))
        await asyncio.sleep(0)
        await bus.publish(topic, messages)
        records = await waiting + await take(consumer, 3 - len(owner.taken))
        assert [record.offset for record in [*owner.taken, *records]] == [0, 1, 2]
        assert len(owner.taken) == (0 if bus.immediate is None else 2)
        owner.arrivals = 0
        await bus.publish(topic, messages)
        assert len(await take(consumer, 3)) == 3
        assert owner.arrivals == 0, "no fetch was waiting"

    async def test_a_record_without_a_time_is_stamped_at_publication(self, site: Site, bus: Bus) -> None:
        topic = site.topic("stamped")
        await bus.ensure_topic(topic, 1)
        published = await bus.publish(topic, numbered(1))
        record = await bus.read_record(topic, published.partition, published.offset)
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
        async with asyncio.timeout(site.time_limit):
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
        waiting = asyncio.ensure_future(consumer.fetch(10, site.time_limit))
        await asyncio.sleep(POLL)
        assert not waiting.done()
        began = time.monotonic()
        await bus.publish(topic, numbered(2))
        assert len(await waiting) >= 1
        assert time.monotonic() - began < site.time_limit / 4

    async def test_fetch_gives_up_after_its_timeout(self, site: Site, bus: Bus) -> None:
        topic = site.topic("quiet")
        await bus.ensure_topic(topic, 1)
        consumer, _ = await self.joined(site, bus, topic, "a", 1)
        began = time.monotonic()
        assert await consumer.fetch(10, 0.1) == []
        assert 0.08 <= time.monotonic() - began < site.time_limit / 2
        assert await consumer.fetch(10, 0.0) == []

    async def test_a_cancelled_fetch_loses_nothing(self, site: Site, bus: Bus) -> None:
        topic = site.topic("cancelled")
        await bus.ensure_topic(topic, 1)
        consumer, _ = await self.joined(site, bus, topic, "a", 1)
        for _ in range(3):
            waiting = asyncio.ensure_future(consumer.fetch(10, site.time_limit))
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
        async with asyncio.timeout(site.time_limit):
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

    # --- following and reading ---------------------------------------------------------------------------------------

    async def test_following_gives_the_past_then_a_mark_then_the_future(self, site: Site, bus: Bus) -> None:
        topic = site.topic("followed")
        await bus.ensure_topic(topic, 1, compacted=True)
        await bus.publish(topic, [OutRecord(b"1", key=b"a"), OutRecord(b"2", key=b"b")])
        following = (await site.connect()).follow(topic)
        past: list[bytes] = []
        async with asyncio.timeout(site.time_limit):
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
        async with asyncio.timeout(site.time_limit):
            assert await anext(following) == []
            waiting = asyncio.ensure_future(anext(following))
            await bus.publish(topic, [OutRecord(b"1", key=b"a")])
            assert values(await waiting) == [b"1"]
        await following.aclose()  # type: ignore[attr-defined]

    async def test_following_begins_where_it_is_told(self, site: Site, bus: Bus) -> None:
        topic = site.topic("resumed")
        await bus.ensure_topic(topic, 2)
        first = await bus.publish(topic, numbered(3), partition=1)
        await bus.publish(topic, [OutRecord(b"other")], partition=0)
        following = (await site.connect()).follow(topic, {1: first.offset + 2})
        past: list[bytes] = []
        async with asyncio.timeout(site.time_limit):
            while part := await anext(following):
                past += values(part)
        await following.aclose()  # type: ignore[attr-defined]
        assert sorted(past) == [b"other", values(numbered(3))[2]]

    async def test_a_compacted_topic_keeps_the_last_value_of_every_key(self, site: Site, bus: Bus) -> None:
        topic = site.topic("compacted")
        await bus.ensure_topic(topic, 1, compacted=True)
        for turn in range(60):
            await bus.publish(topic, [OutRecord(b"%d" % turn, key=b"key %d" % (turn % 3))])
        latest: dict[bytes | None, bytes] = {}
        following = bus.follow(topic)
        async with asyncio.timeout(site.time_limit):
            while part := await anext(following):
                latest.update({record.key: bytes(record.value) for record in part})
        await following.aclose()  # type: ignore[attr-defined]
        assert latest == {b"key 0": b"57", b"key 1": b"58", b"key 2": b"59"}

    async def test_reading_one_record_again(self, site: Site, bus: Bus) -> None:
        topic = site.topic("read")
        await bus.ensure_topic(topic, 2)
        published = await bus.publish(topic, [OutRecord(b"%d" % n, [("id", b"%d" % n)]) for n in range(5)], partition=1)
        record = await (await site.connect()).read_record(topic, 1, published.offset + 3)
        assert record is not None
        assert (record.offset, bytes(record.value), list(record.headers)) == (
            published.offset + 3,
            b"3",
            [("id", b"3")],
        )

    async def test_what_a_group_has_committed_is_told(self, site: Site, bus: Bus) -> None:
        topic = site.topic("committed")
        await bus.ensure_topic(topic, 2)
        assert await bus.committed(topic, topic) == {}
        published = await bus.publish(topic, numbered(5), partition=1)
        consumer, _ = await self.joined(site, bus, topic, "a", 2)
        await take(consumer, 5)
        await consumer.commit({1: published.offset + 3})
        told = await (await site.connect()).committed(topic, topic)
        assert (told.get(0, 0), told[1]) == (0, published.offset + 3)
        assert await bus.committed(topic, "another") == {}
        assert await bus.committed(site.topic("never"), topic) == {}

    async def test_where_logs_begin_and_end_is_told_of_many_topics(self, site: Site, bus: Bus) -> None:
        first, second, absent = site.topic("extents"), site.topic("empty"), site.topic("no-extents")
        await bus.ensure_topic(first, 2)
        await bus.ensure_topic(second, 1)
        published = await bus.publish(first, numbered(5), partition=1)
        told = await (await site.connect()).extents([first, second, absent, first])
        assert {topic: dict(of) for topic, of in told.items()} == {
            first: {0: (0, 0), 1: (published.offset, published.offset + 5)},
            second: {0: (0, 0)},
        }
        assert await bus.extents([]) == {}
        assert await bus.partitions(absent) == 0

    async def test_reading_what_is_not_there_is_none(self, site: Site, bus: Bus) -> None:
        topic = site.topic("gone")
        await bus.ensure_topic(topic, 1)
        await bus.publish(topic, numbered(2))
        assert await bus.read_record(topic, 0, 2) is None
        assert await bus.read_record(topic, 0, 1_000_000) is None
        assert await bus.read_record(topic, 7, 0) is None
        assert await bus.read_record(site.topic("never"), 0, 0) is None
