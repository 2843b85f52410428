"""What every bus must do when members of a group join, die, are replaced and evicted: a part of `contract_bus.BusContract`."""

from __future__ import annotations

import contextlib
import time

from protocol.errors import FleetError
from protocol.ports import Assigned, Bus
from tests.transport.bus_site import BusSuite, Owner, Site, nothing_comes, numbered, refused_or_harmless, take, values


class MembersContract(BusSuite):
    """Inherited by `BusContract`."""

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
