"""The contract of the bus, on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from protocol.transport.kafka import KafkaBus
from protocol.transport.settings import TransportSettings
from tests.transport import contract_bus
from tests.transport.bus_site import numbered, take, values


class KafkaSite(contract_bus.Site):
    """A broker and a prefix."""

    session_timeout = 3.0
    patience = 30.0
    fetch_max_wait = 0.5

    def __init__(self, bootstrap: str, prefix: str, security: dict[str, str] | None = None) -> None:
        self.bootstrap = bootstrap
        self.prefix = prefix
        self.security = security or {}
        self.buses: list[KafkaBus] = []

    async def connect(self) -> KafkaBus:
        settings = TransportSettings(
            kafka=self.bootstrap,
            redis="redis://unused",
            prefix=self.prefix,
            session_timeout=self.session_timeout,
            connect_timeout=10.0,
            fetch_max_wait=self.fetch_max_wait,
            kafka_security=self.security,
        )
        bus = KafkaBus(settings)
        self.buses.append(bus)
        await bus.open()
        return bus

    def topic(self, name: str) -> str:
        return f"{self.prefix}.{name}"

    async def close(self) -> None:
        for bus in self.buses:
            await bus.close()


@pytest.mark.servers
class TestKafkaBus(contract_bus.BusContract):
    @pytest.fixture
    async def site(self, kafka_bootstrap: str, prefix: str) -> AsyncIterator[KafkaSite]:
        site = KafkaSite(kafka_bootstrap, prefix)
        yield site
        await site.close()

    async def test_a_rebalance_does_not_wait_for_fetches_that_wait_for_records(self, site: KafkaSite) -> None:
        site.fetch_max_wait = 9.0
        topic, bus = site.topic("unhurried"), await site.connect()
        await bus.ensure_topic(topic, 2)
        async with asyncio.timeout(site.fetch_max_wait / 2):
            first, owner = await self.joined(site, bus, topic, "a", 2)
            await self.joined(site, await site.connect(), topic, "b", 1)
            await site.until(lambda: len(owner.owned) == 1, first)

    async def test_partitions_of_another_are_fetched_at_once(self, site: KafkaSite) -> None:
        site.fetch_max_wait = 9.0
        topic, bus = site.topic("inherited"), await site.connect()
        await bus.ensure_topic(topic, 2)
        first, owner = await self.joined(site, bus, topic, "a", 2)
        second, _ = await self.joined(site, await site.connect(), topic, "b", 1)
        await site.until(lambda: len(owner.owned) == 1, first)
        (kept,) = owner.owned
        async with asyncio.timeout(site.fetch_max_wait / 2):
            await site.crash(second)
            await bus.evict(topic, ["b"])
            await site.until(lambda: len(owner.owned) == 2, first)
            await bus.publish(topic, numbered(1), partition=1 - kept)
            assert values(await take(first, 1)) == [b"record 0"]

    async def test_a_topic_that_is_made_meanwhile_is_known_in_time(self, site: KafkaSite) -> None:
        topic, other = site.topic("late"), await site.connect()
        publishing = asyncio.create_task((await site.connect()).publish(topic, numbered(1)))

        await other.ensure_topic(topic, 1)

        assert (await publishing).partition == 0
