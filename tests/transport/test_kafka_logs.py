"""Logs that are not a plain sequence of records: transactions with gaps, recreated topics, truncated logs, on a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from protocol.errors import FleetError, NotFound, Unavailable
from protocol.ports import Assigned, Consumer, OutRecord
from protocol.transport.kafka.bus import KafkaBus
from protocol.transport.kafka.positions import is_of_log
from tests.transport.bus_site import POLL, Owner, nothing_comes, numbered, take, values
from tests.transport.test_kafka import KafkaSite

pytestmark = pytest.mark.servers


@pytest.fixture
async def site(kafka_bootstrap: str, prefix: str) -> AsyncIterator[KafkaSite]:
    site = KafkaSite(kafka_bootstrap, prefix)
    yield site
    await site.close()


@pytest.fixture
async def batch_producer(kafka_bootstrap: str, prefix: str) -> AsyncIterator[AIOKafkaProducer]:
    """A third-party producer, which writes in transactions."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap, transactional_id=f"{prefix}-batch")
    await producer.start()
    yield producer
    await producer.stop()


async def joined(site: KafkaSite, bus: KafkaBus, topic: str, partitions: int = 1) -> tuple[Consumer, Owner]:
    owner = Owner()
    consumer = await bus.subscribe(topic, topic, "w0", owner)
    await site.until(lambda: len(owner.owned) == partitions, consumer)
    return consumer, owner


async def transaction(producer: AIOKafkaProducer, topic: str, sent: Sequence[bytes], *, commit: bool) -> None:
    await producer.begin_transaction()
    for value in sent:
        await producer.send_and_wait(topic, value, partition=0)
    await (producer.commit_transaction() if commit else producer.abort_transaction())


class TestTransactions:
    async def test_aborted_records_are_no_requests_and_the_gaps_can_be_committed(
        self, site: KafkaSite, batch_producer: AIOKafkaProducer
    ) -> None:
        topic, bus = site.topic("batches"), await site.connect()
        await bus.ensure_topic(topic, 1)
        consumer, owner = await joined(site, bus, topic)
        await transaction(batch_producer, topic, [b"taken 0", b"taken 1"], commit=True)  # and a marker
        await transaction(batch_producer, topic, [b"aborted"], commit=False)  # and a marker, now or later
        await bus.publish(topic, numbered(1))
        await transaction(batch_producer, topic, [b"aborted"], commit=False)  # and a marker
        assert values(await take(consumer, 3)) == [b"taken 0", b"taken 1", b"record 0"]
        assert await nothing_comes(consumer, 1.0)
        assert consumer.positions() == {0: 8}
        assert consumer.backlog() == 0
        assert await consumer.lag() == 8
        await consumer.commit(consumer.positions())
        assert await consumer.lag() == 0
        await site.crash(consumer)
        _, owner = await joined(site, await site.connect(), topic)
        assert owner.owned[0] == Assigned(partition=0, committed=8, end=8)

    async def test_an_open_transaction_holds_its_partition_and_no_other(
        self, site: KafkaSite, batch_producer: AIOKafkaProducer
    ) -> None:
        topic, bus = site.topic("open"), await site.connect()
        await bus.ensure_topic(topic, 2)
        consumer, _ = await joined(site, bus, topic, 2)
        await batch_producer.begin_transaction()
        await batch_producer.send_and_wait(topic, b"first", partition=0)
        await bus.publish(topic, [OutRecord(b"behind")], 0)
        began = time.monotonic()
        await bus.publish(topic, [OutRecord(b"beside")], 1)
        assert values(await take(consumer, 1)) == [b"beside"]
        assert time.monotonic() - began < 2.0
        assert await nothing_comes(consumer, 0.5)
        assert consumer.backlog() == 0, "nobody knows when it comes, so no batch waits for it"
        assert await consumer.lag() == 3, "it is visible as pending"
        await batch_producer.commit_transaction()
        assert values(await take(consumer, 2)) == [b"first", b"behind"]


async def made_again(site: KafkaSite, bus: KafkaBus, admin: AIOKafkaAdminClient, topic: str, count: int) -> None:
    """Delete the topic and create it again, with other records."""
    await admin.delete_topics([topic])
    async with asyncio.timeout(site.time_limit):
        while True:
            with contextlib.suppress(FleetError):
                await bus.ensure_topic(topic, 1)
                await bus.publish(topic, numbered(count, 100))
                return


class TestTopicsMadeAgain:
    @pytest.mark.parametrize("count", [3, 15], ids=["shorter", "longer"])
    async def test_a_member_that_holds_the_topic_reads_the_new_one_from_its_start(
        self, site: KafkaSite, admin: AIOKafkaAdminClient, count: int
    ) -> None:
        """Even if the new log is longer than the old one was, so that the positions look right."""
        topic, bus = site.topic("held"), await site.connect()
        await bus.ensure_topic(topic, 1)
        await bus.publish(topic, numbered(10))
        consumer, owner = await joined(site, bus, topic)
        await take(consumer, 10)
        await consumer.commit({0: 10})
        epoch = owner.epochs[-1]
        await made_again(site, await site.connect(), admin, topic, count)
        got: list[bytes] = []
        new = [record.value for record in numbered(count, 100)]
        async with asyncio.timeout(site.time_limit):
            while got[-count:] != new:
                with contextlib.suppress(Unavailable):  # raised while there is no topic
                    got += values(await consumer.fetch(count, 0.5))
        assert got[:-count] in ([], new[10:]), (
            "what stands at the old position may come before the topic is known to be new"
        )
        assert owner.owned[0].committed == 0
        assert owner.epochs[-1] > epoch + 1, "what was in flight would go on, and hide the records at its offsets"

    async def test_offsets_of_the_old_topic_that_are_committed_late_hide_nothing(
        self, site: KafkaSite, admin: AIOKafkaAdminClient
    ) -> None:
        topic, bus = site.topic("late"), await site.connect()
        await bus.ensure_topic(topic, 1)
        await bus.publish(topic, numbered(10))
        consumer, _ = await joined(site, bus, topic)
        await take(consumer, 10)
        await made_again(site, await site.connect(), admin, topic, 15)
        with contextlib.suppress(Unavailable):  # the broker accepts it: the name is the same
            await consumer.commit({0: 10})
        await site.crash(consumer)
        second, owner = await joined(site, await site.connect(), topic)
        assert owner.owned[0].committed == 0
        assert len(await take(second, 15)) == 15

    async def test_a_topic_that_is_deleted_while_it_is_served_is_made_again_by_its_members(
        self, site: KafkaSite, admin: AIOKafkaAdminClient
    ) -> None:
        topic, bus = site.topic("deleted"), await site.connect()
        await bus.ensure_topic(topic, 3)
        consumer, _ = await joined(site, bus, topic, 3)
        await bus.publish(topic, numbered(1), 2)
        assert len(await take(consumer, 1)) == 1
        await admin.delete_topics([topic])
        sender, got = await site.connect(), list[bytes]()
        async with asyncio.timeout(site.time_limit):
            while True:
                with contextlib.suppress(FleetError):
                    await sender.publish(topic, numbered(1, 7), 2)
                    break
            while not got:
                with contextlib.suppress(Unavailable):  # at once, while there is no topic
                    got += values(await consumer.fetch(1, 0.2))
                await asyncio.sleep(POLL)
        assert got[0] == b"record 7"

    async def test_while_there_is_no_topic_it_is_said(self, site: KafkaSite, admin: AIOKafkaAdminClient) -> None:
        topic, bus = site.topic("gone"), await site.connect()
        await bus.ensure_topic(topic, 1)
        consumer, _ = await joined(site, bus, topic)
        await admin.delete_topics([topic])

        async def fetch_until_refused() -> None:
            async with asyncio.timeout(site.time_limit):
                while True:
                    await consumer.fetch(1, 0.1)

        with pytest.raises(Unavailable, match="no longer exists"):
            await fetch_until_refused()


class TestFollowing:
    async def test_a_topic_that_is_made_again_is_followed_from_its_start(
        self, site: KafkaSite, admin: AIOKafkaAdminClient
    ) -> None:
        topic, bus = site.topic("followed"), await site.connect()
        await bus.ensure_topic(topic, 1)
        await bus.publish(topic, numbered(3))
        stream = bus.follow(topic)
        got: list[bytes] = []
        async with asyncio.timeout(site.time_limit):
            while len(got) < 3:
                got += values(await anext(stream))
            await made_again(site, await site.connect(), admin, topic, 8)
            whole = [record.value for record in numbered(8, 100)]
            while got[-8:] != whole:  # what was read by the old offset before the change was seen comes again
                got += values(await anext(stream))
        await stream.aclose()
        assert got[:3] == [record.value for record in numbered(3)]

    async def test_a_topic_that_was_deleted_ends_its_followers(
        self, site: KafkaSite, admin: AIOKafkaAdminClient
    ) -> None:
        topic, bus = site.topic("unfollowed"), await site.connect()
        await bus.ensure_topic(topic, 1)
        stream = bus.follow(topic)
        assert await anext(stream) == []
        await admin.delete_topics([topic])
        with pytest.raises(NotFound, match="was deleted"):
            async with asyncio.timeout(site.time_limit):
                await anext(stream)


async def test_records_deleted_while_they_wait_to_be_read_are_told_as_lost(
    site: KafkaSite, admin: AIOKafkaAdminClient
) -> None:
    """A member that is full does not fetch; retention continues."""
    topic, bus = site.topic("retained"), await site.connect()
    await bus.ensure_topic(topic, 1)
    consumer, owner = await joined(site, bus, topic)
    await consumer.commit({0: 0})
    inner = consumer._inner  # type: ignore[attr-defined]
    inner.pause(TopicPartition(topic, 0))
    assert await nothing_comes(consumer, 1.0)  # the fetch in flight has returned
    await bus.publish(topic, numbered(10))
    await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=6)})
    inner.resume(TopicPartition(topic, 0))
    got = values(await take(consumer, 4))
    assert got == [record.value for record in numbered(4, 6)]
    assert owner.owned[0] == Assigned(partition=0, committed=0, end=10, start=6)


@pytest.mark.parametrize(
    ("offset", "metadata", "expected"),
    [
        (5, "topic-id=this", True),
        (5, "topic-id=that", False),
        (5, "", True),  # an operator's
        (5, "reset by hand", True),
        (11, "topic-id=this", False),  # the log was truncated
    ],
)
def test_which_committed_offsets_count(offset: int, metadata: str, expected: bool) -> None:
    assert is_of_log(OffsetAndMetadata(offset, metadata), 10, "this") is expected
