"""Members learn of a rebalance from each other, long before their next heartbeat: a real broker, and a real Redis between them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence

import pytest

from protocol.ports import Assigned, Bus, Consumer
from protocol.transport import Transport, open_transport
from protocol.transport.settings import TransportSettings
from tests.transport.bus_site import Owner, Site

pytestmark = pytest.mark.servers

HEARTBEAT = 4.0
SOON = HEARTBEAT / 3


class NoticedSite(Site):
    """A broker and a Redis; members send heartbeats too rarely to learn of anything in time on their own."""

    time_limit = 5 * HEARTBEAT

    def __init__(self, kafka: str, redis: str, prefix: str) -> None:
        self._settings = TransportSettings(
            kafka=kafka, redis=redis, prefix=prefix, session_timeout=4 * HEARTBEAT, heartbeat_interval=HEARTBEAT
        )
        self._transports: list[Transport] = []

    async def connect(self) -> Bus:
        transport = open_transport(self._settings)
        self._transports.append(transport)
        await transport.open()
        return transport.bus

    def topic(self, name: str) -> str:
        return f"{self._settings.prefix}.{name}"

    async def close(self) -> None:
        for transport in self._transports:
            await transport.close()


class Stopwatch(Owner):
    """Measures how long partitions had no owner each time."""

    def __init__(self) -> None:
        super().__init__()
        self.gaps: list[float] = []
        self._since = 0.0

    def arrived(self, take: object) -> None: ...

    def revoked(self, partitions: Collection[int]) -> None:
        super().revoked(partitions)
        self._since = time.monotonic()

    def assigned(self, epoch: int, partitions: Sequence[Assigned]) -> None:
        super().assigned(epoch, partitions)
        if self._since:
            self.gaps.append(time.monotonic() - self._since)


@pytest.fixture
async def site(kafka_bootstrap: str, redis_url: str, prefix: str) -> AsyncIterator[NoticedSite]:
    site = NoticedSite(kafka_bootstrap, redis_url, prefix)
    yield site
    await site.close()


async def member(site: NoticedSite, topic: str, name: str) -> tuple[Consumer, Stopwatch]:
    watch = Stopwatch()
    return await (await site.connect()).subscribe(topic, topic, name, watch), watch


def sizes(*watches: Stopwatch) -> list[int]:
    return [len(watch.owned) for watch in watches]


async def test_whoever_is_left_has_the_partitions_at_once(site: NoticedSite) -> None:
    topic, bus = site.topic("left"), await site.connect()
    await bus.ensure_topic(topic, 2)
    (a, first), (b, second) = await member(site, topic, "a"), await member(site, topic, "b")
    await site.until(lambda: sizes(first, second) == [1, 1], a, b)

    await b.close()
    await bus.evict(topic, ["b"])

    async with asyncio.timeout(SOON):
        await site.until(lambda: sizes(first) == [2], a)


async def test_nobody_waits_for_the_last_to_hear_of_a_join(site: NoticedSite) -> None:
    topic, bus = site.topic("joined"), await site.connect()
    await bus.ensure_topic(topic, 3)
    (a, first), (b, former) = await member(site, topic, "a"), await member(site, topic, "b")
    await site.until(lambda: sorted(sizes(first, former)) == [1, 2], a, b)
    halfway = time.monotonic() + HEARTBEAT / 2
    await site.until(lambda: time.monotonic() > halfway, a, b)
    await b.close()
    b, second = await member(
        site, topic, "b"
    )  # a restart rebalances nothing, and its heartbeats come between the other's
    await site.until(lambda: sorted(sizes(first, second)) == [1, 2], a, b)
    first.gaps.clear()

    c, third = await member(site, topic, "c")
    await site.until(lambda: sizes(first, second, third) == [1, 1, 1], a, b, c)

    assert max(first.gaps + second.gaps) < SOON


async def test_a_store_that_is_away_costs_no_more_than_a_heartbeat(site: NoticedSite) -> None:
    """The bus joins, leaves and evicts all the same."""
    topic, bus = site.topic("alone"), await site.connect()
    await bus.ensure_topic(topic, 2)
    a, first = await member(site, topic, "a")
    await site.until(lambda: sizes(first) == [2], a)
    for transport in site._transports:
        await transport.results.close()

    b, second = await member(site, topic, "b")
    await site.until(lambda: sizes(first, second) == [1, 1], a, b)
    await b.close()
    await bus.evict(topic, ["b"])

    await site.until(lambda: sizes(first) == [2], a)
