"""Records as strangers write them, read by a group's member, a follower and by offset, on a real broker: nothing in a record or
a batch costs another one, or blocks its partition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from infra.local.kafka import Broker
from protocol.ports import Consumer, OutRecord, Record
from protocol.transport.kafka.batches import MAX_HEADERS, MAX_INFLATED
from protocol.transport.kafka.bus import KafkaBus
from tests.transport.bus_site import Owner, numbered, take, values
from tests.transport.strangers import CODECS, Strange, write
from tests.transport.test_kafka import KafkaSite

pytestmark = pytest.mark.servers

BOMB = bytes(MAX_INFLATED + 1024 * 1024)
"""A value over what a batch may inflate to; compressed it is some kilobytes."""
PARTITIONS = 3


@pytest.fixture
async def site(kafka_bootstrap: str, prefix: str) -> AsyncIterator[KafkaSite]:
    site = KafkaSite(kafka_bootstrap, prefix)
    yield site
    await site.close()


@pytest.fixture
async def bus(site: KafkaSite) -> KafkaBus:
    return await site.connect()


@pytest.fixture
async def topic(site: KafkaSite, bus: KafkaBus) -> str:
    topic = site.topic("strange")
    await bus.ensure_topic(topic, PARTITIONS)
    return topic


async def joined(site: KafkaSite, bus: KafkaBus, topic: str) -> Consumer:
    owner = Owner()
    consumer = await bus.subscribe(topic, topic, "w0", owner)
    await site.until(lambda: len(owner.owned) == PARTITIONS, consumer)
    return consumer


async def followed(bus: KafkaBus, topic: str) -> list[Record]:
    """What a follower reads up to the current end."""
    got: list[Record] = []
    stream = bus.follow(topic)
    try:
        async with asyncio.timeout(20):
            async for records in stream:
                if not records:
                    break
                got += records
    finally:
        await stream.aclose()
    return got


def of(records: list[Record], partition: int) -> list[Record]:
    return [record for record in records if record.partition == partition]


async def ready_when_all_is_there(site: KafkaSite, bus: KafkaBus, topic: str, count: int) -> list[Record]:
    """All partitions are fetched together: the member joins after the records were written."""
    return await take(await joined(site, bus, topic), count)


class TestHeaders:
    async def test_a_header_name_that_is_not_utf8_loses_nothing(
        self, site: KafkaSite, bus: KafkaBus, topic: str
    ) -> None:
        for partition in (0, 2):
            await bus.publish(topic, numbered(20), partition)
        await write(site.bootstrap, topic, 1, [Strange(b"odd", [(b"\xff\xfe", b"v"), (b"id", b"x")])])
        await bus.publish(topic, numbered(2, 50), 1)
        consumer = await joined(site, bus, topic)
        records = await take(consumer, 43)
        assert [values(of(records, partition)) for partition in (0, 2)] == [values_of(20)] * 2
        odd, *rest = of(records, 1)
        assert (bytes(odd.value), odd.problem) == (b"odd", "")
        assert list(odd.headers) == [(r"\xff\xfe", b"v"), ("id", b"x")]
        assert values(rest) == [b"record 50", b"record 51"]
        await consumer.commit(consumer.positions())
        assert await consumer.lag() == 0

    async def test_every_reader_reads_it(self, site: KafkaSite, bus: KafkaBus, topic: str) -> None:
        await write(site.bootstrap, topic, 1, [Strange(b"odd", [(b"\xff\xfe", b"v")])])
        (record,) = await followed(bus, topic)
        assert list(record.headers) == [(r"\xff\xfe", b"v")]
        assert await bus.read_record(topic, 1, 0) == record

    async def test_a_record_that_was_read_can_be_published_again(
        self, site: KafkaSite, bus: KafkaBus, topic: str
    ) -> None:
        await write(site.bootstrap, topic, 1, [Strange(b"odd", [(b"\xff\xfe", b"\xfd"), (b"null", None)], b"\xfc")])
        (record,) = await followed(bus, topic)
        await bus.publish(topic, [OutRecord(bytes(record.value), record.headers, record.key)], 0)
        again = await bus.read_record(topic, 0, 0)
        assert again is not None
        assert again.key == b"\xfc"
        assert list(again.headers) == list(record.headers) == [(r"\xff\xfe", b"\xfd"), ("null", None)]

    async def test_null_and_doubled_headers_keep_their_order(self, site: KafkaSite, bus: KafkaBus, topic: str) -> None:
        await write(
            site.bootstrap, topic, 0, [Strange(headers=[(b"id", None), (b"id", b"2"), (b"id", b""), (b"", b"x")])]
        )
        (record,) = await followed(bus, topic)
        assert list(record.headers) == [("id", None), ("id", b"2"), ("id", b""), ("", b"x")]

    async def test_of_too_many_headers_the_first_are_read(self, site: KafkaSite, bus: KafkaBus, topic: str) -> None:
        counts = [MAX_HEADERS, MAX_HEADERS + 1, 40_000]
        sent = [Strange(headers=[(b"h", b"%d" % number) for number in range(count)]) for count in counts]
        await write(site.bootstrap, topic, 0, [*sent, Strange(bytes(2**18), [(b"h", b"x")] * 40_000), b"last"])
        fine, *crowded, last = await take(await joined(site, bus, topic), 5)
        assert (len(fine.headers), fine.problem, last.value, last.problem) == (MAX_HEADERS, "", b"last", "")
        assert [len(record.headers) for record in crowded] == [MAX_HEADERS] * 3
        assert [len(record.value) for record in crowded] == [1, 1, 2**18]
        assert ["40000 headers" in record.problem for record in crowded] == [False, True, True]

    async def test_a_letter_of_a_record_with_as_many_headers_as_are_read_is_read(
        self, site: KafkaSite, bus: KafkaBus, topic: str
    ) -> None:
        await write(site.bootstrap, topic, 0, [Strange(headers=[(b"h", b"x")] * 5_000)])
        (crowded,) = await take(await joined(site, bus, topic), 1)
        evidence = [("dead-reason", b"undecodable")] * 20
        await bus.publish(topic, [OutRecord(bytes(crowded.value), [*crowded.headers, *evidence])], 1)
        (letter,) = await followed(bus, topic)
        assert (len(letter.headers), letter.problem) == (MAX_HEADERS + 20, "")
        assert await bus.read_record(topic, 1, 0) == letter

    @pytest.mark.parametrize("stamp", [-1, 0, 2**53, 1_700_000_000_000_000_000, 2**63 - 1])
    async def test_any_timestamp_is_read(
        self, site: KafkaSite, bus: KafkaBus, topic: str, admin: AIOKafkaAdminClient, stamp: int
    ) -> None:
        any_time = dict.fromkeys(("message.timestamp.before.max.ms", "message.timestamp.after.max.ms"), str(2**63 - 1))
        await admin.create_topics([NewTopic(topic := f"{topic}.times", 1, 1, topic_configs=any_time)])
        await write(site.bootstrap, topic, 0, [Strange(timestamp=stamp)])
        (record,) = await followed(bus, topic)
        assert record.timestamp == stamp / 1000

    async def test_null_values_and_empty_or_huge_keys_are_read(
        self, site: KafkaSite, bus: KafkaBus, topic: str
    ) -> None:
        keys = [None, b"", bytes(2**20)]
        await write(site.bootstrap, topic, 0, [Strange(None, key=key) for key in keys])
        assert [(record.value, record.key) for record in await followed(bus, topic)] == [(b"", key) for key in keys]


def values_of(count: int) -> list[bytes]:
    return [record.value for record in numbered(count)]


class TestCompression:
    @pytest.mark.parametrize("codec", CODECS)
    async def test_compressed_batches_are_read_beside_others(
        self, site: KafkaSite, bus: KafkaBus, topic: str, codec: str
    ) -> None:
        await bus.publish(topic, numbered(3), 0)
        await write(site.bootstrap, topic, 1, [Strange(value, [(b"id", b"7")]) for value in values_of(200)], codec)
        records = await ready_when_all_is_there(site, bus, topic, 203)
        assert values(of(records, 1)) == values_of(200)
        assert of(records, 1)[0].headers == [("id", b"7")]
        assert values(of(records, 0)) == values_of(3)

    @pytest.mark.parametrize("codec", CODECS)
    async def test_every_reader_reads_every_codec(self, site: KafkaSite, bus: KafkaBus, topic: str, codec: str) -> None:
        large = [b"%d" % number * 300_000 for number in range(1, 5)]
        assert await write(site.bootstrap, topic, 2, large, codec) == 0
        assert values(await followed(bus, topic)) == large
        read = [await bus.read_record(topic, 2, offset) for offset in range(4)]
        assert values([record for record in read if record is not None]) == large

    @pytest.mark.parametrize("codec", CODECS)
    async def test_a_batch_that_inflates_to_too_much_is_one_broken_record_and_holds_nobody(
        self, site: KafkaSite, bus: KafkaBus, topic: str, codec: str
    ) -> None:
        await bus.publish(topic, numbered(5), 0)
        await bus.publish(topic, numbered(1), 1)
        await write(site.bootstrap, topic, 1, [b"small", BOMB, b"small"], codec)
        await bus.publish(topic, numbered(2, 7), 1)
        consumer = await joined(site, bus, topic)
        records = await take(consumer, 9)
        assert values(of(records, 0)) == values_of(5)
        before, broken, *behind = of(records, 1)
        assert values([before, *behind]) == [b"record 0", b"record 7", b"record 8"]
        assert (broken.offset, broken.value, broken.key, list(broken.headers)) == (3, b"", None, [])
        assert "offsets 1 to 3" in broken.problem
        assert codec in broken.problem
        await consumer.commit({0: 5, 1: 6})
        assert await consumer.lag() == 0
        assert await bus.read_record(topic, 1, 2) is None

    async def test_broken_batches_are_skipped_by_followers(self, site: KafkaSite, bus: KafkaBus, topic: str) -> None:
        await write(site.bootstrap, topic, 0, [BOMB], "zstd")
        await bus.publish(topic, numbered(1), 0)
        assert values(await followed(bus, topic)) == [b"record 0"]

    async def test_many_bombs_and_good_records_in_every_partition(
        self, site: KafkaSite, bus: KafkaBus, topic: str
    ) -> None:
        for _ in range(3):
            for partition in range(PARTITIONS):
                await write(site.bootstrap, topic, partition, [BOMB], "zstd")
                await write(site.bootstrap, topic, partition, [b"good"] * 3, "lz4")
        records = await ready_when_all_is_there(site, bus, topic, 36)
        for partition in range(PARTITIONS):
            mine = of(records, partition)
            assert [record.offset for record in mine] == list(range(12))
            assert [bool(record.problem) for record in mine] == [True, False, False, False] * 3

    async def test_a_transaction_may_be_compressed(self, site: KafkaSite, bus: KafkaBus, topic: str) -> None:
        async with AIOKafkaProducer(
            bootstrap_servers=site.bootstrap, transactional_id=site.prefix, compression_type="zstd"
        ) as producer:
            for ends in (True, False, True):
                await producer.begin_transaction()
                await producer.send_and_wait(topic, b"committed" if ends else b"aborted", partition=0)
                await (producer.commit_transaction() if ends else producer.abort_transaction())
        await bus.publish(topic, numbered(1), 0)
        records = await ready_when_all_is_there(site, bus, topic, 3)
        assert values(records) == [b"committed", b"committed", b"record 0"]


class TestDamage:
    @pytest.mark.slow
    async def test_a_batch_that_is_damaged_on_the_brokers_disk_is_one_broken_record_and_holds_nobody(
        self, own_kafka: Broker, prefix: str
    ) -> None:
        site = KafkaSite(own_kafka.bootstrap, prefix)
        topic = site.topic("damaged")
        try:
            bus = await site.connect()
            await bus.ensure_topic(topic, PARTITIONS)
            await bus.publish(topic, numbered(5), 0)
            for records in ([OutRecord(b"before")], [OutRecord(b"the damaged one")] * 3, [OutRecord(b"behind")]):
                await bus.publish(topic, records, 1)
            await asyncio.to_thread(own_kafka.stop)
            (log,) = own_kafka.data.glob(f"log/{topic}-1/*.log")
            log.write_bytes(log.read_bytes().replace(b"the damaged one", b"the DAMAGED one"))
            await asyncio.to_thread(own_kafka.start)
            records = await take(await joined(site, bus, topic), 8)
            assert values(of(records, 0)) == values_of(5)
            assert [(record.offset, bytes(record.value)) for record in of(records, 1)] == [
                (0, b"before"),
                (3, b""),
                (4, b"behind"),
            ]
            assert "checksum" in of(records, 1)[1].problem
        finally:
            await site.close()
