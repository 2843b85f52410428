"""The contract of the bus, on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient, ConnectionGroup

from protocol.transport.kafka.aiokafka_internals import close_for_good
from protocol.transport.kafka.bus import KafkaBus
from protocol.transport.kafka.consumer import KafkaConsumer
from protocol.transport.settings import TransportSettings
from tests.transport import contract_bus
from tests.transport.bus_site import numbered, take, values

ANSWERS = 20
FETCH_LOOP_TURN = 1.0
"""Seconds after which aiokafka checks on its own what it can fetch (`consumer_timeout_ms`)."""


def wake_beside_every_answer(consumer: KafkaConsumer) -> Callable[[], int]:
    """Wake aiokafka's fetch loop when the answer to its fetch arrives, and up to two turns of the event loop later.

    In one of them (which one depends on Python's version) the loop resumes when the fetch has ended but its broker is still marked
    as busy. Returns a function that returns the number of answers so far.
    """
    assert consumer._inner is not None
    fetcher, client = consumer._inner._fetcher, consumer._inner._client
    loop = asyncio.get_running_loop()
    answers = 0

    def wake(turns: int) -> None:
        if turns:
            loop.call_soon(wake, turns - 1)
        else:
            fetcher._notify(fetcher._wait_consume_future)

    def hook(connection: Any) -> None:
        handle = connection._handle_frame

        def woken(frame: bytes) -> None:
            nonlocal answers
            answers += 1
            wake(answers % 3)
            handle(frame)

        connection._handle_frame = woken

    for (_, group), connection in client._conns.items():
        if group is ConnectionGroup.DEFAULT:
            hook(connection)
    return lambda: answers


class KafkaSite(contract_bus.Site):
    """A broker and a prefix."""

    session_timeout = 3.0
    time_limit = 30.0
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

    async def test_a_client_that_is_shut_leaves_no_connection_open(self, kafka_bootstrap: str) -> None:
        client = AIOKafkaClient(bootstrap_servers=kafka_bootstrap)
        await client.bootstrap()
        broker = next(iter(client.cluster.brokers())).nodeId
        opening = asyncio.create_task(client.ready(broker, group=ConnectionGroup.COORDINATION))
        await asyncio.sleep(0)  # it is being opened now
        await client.close()
        await close_for_good(client)
        await opening
        assert (broker, ConnectionGroup.COORDINATION) in client._conns
        assert not any(connection.connected() for connection in client._conns.values())
        assert not await client.ready(broker)

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

    async def test_a_fetch_that_ends_beside_a_wake_up_is_followed_by_the_next(self, site: KafkaSite) -> None:
        site.fetch_max_wait = 0.02
        topic, bus = site.topic("beside"), await site.connect()
        await bus.ensure_topic(topic, 1)
        consumer, _ = await self.joined(site, bus, topic, "a", 1)
        await bus.publish(topic, numbered(1))
        await take(consumer, 1)  # the connection is there now
        assert isinstance(consumer, KafkaConsumer)
        answers = wake_beside_every_answer(consumer)

        async with asyncio.timeout(ANSWERS * FETCH_LOOP_TURN / 4):
            while answers() < ANSWERS:
                assert await consumer.fetch(1, site.fetch_max_wait) == []

    async def test_a_member_that_is_closed_in_a_rebalance_is_given_nothing_more(self, site: KafkaSite) -> None:
        """It would look up the partitions' offsets, on connections that are closed for good."""
        topic, bus = site.topic("closing"), await site.connect()
        await bus.ensure_topic(topic, 1)
        consumer, owner = await self.joined(site, bus, topic, "a", 1)
        assert isinstance(consumer, KafkaConsumer)
        inner = consumer._inner
        assert inner is not None
        listener = inner._subscription.listener

        await consumer.close()
        listener.on_partitions_revoked([TopicPartition(topic, 0)])
        listener.on_partitions_assigned([TopicPartition(topic, 0)])
        await asyncio.sleep(0)

        assert consumer._announcing is None
        assert len(owner.epochs) == 1

    async def test_a_topic_that_is_made_meanwhile_is_known_in_time(self, site: KafkaSite) -> None:
        topic, other = site.topic("late"), await site.connect()
        publishing = asyncio.create_task((await site.connect()).publish(topic, numbered(1)))

        await other.ensure_topic(topic, 1)

        assert (await publishing).partition == 0
