"""Reading the settings of a real broker and a real Redis."""

from __future__ import annotations

import contextlib
import time

import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition

from infra.local.redis import RedisServer
from protocol.errors import Unavailable
from protocol.ports import OutRecord
from protocol.transport import open_transport
from protocol.transport.facts import KafkaFacts
from protocol.transport.kafka.connection import MAX_BATCH
from protocol.transport.kafka.facts import read_kafka
from protocol.transport.redis.facts import read_redis
from protocol.transport.settings import TransportSettings
from tests.transport.contract_bus import Owner
from tests.transport.test_kafka import KafkaSite


async def test_a_brokers_and_its_topics_settings_are_read(kafka_bootstrap: str, redis_url: str, prefix: str) -> None:
    settings = TransportSettings(kafka=kafka_bootstrap, redis=redis_url, prefix=prefix)
    async with contextlib.AsyncExitStack() as stack:
        bus = open_transport(settings).bus
        await bus.open()
        stack.push_async_callback(bus.close)
        topic = settings.names.infer_topic("m", "1")
        assert not [each for each in (await read_kafka(settings)).topics if each.name.startswith(prefix)]
        await bus.ensure_topic(topic, 2)
        facts = await read_kafka(settings)

    (found,) = [each for each in facts.topics if each.name.startswith(prefix)]
    assert (found.name, found.replicas, found.in_sync) == (topic, 1, 1)
    assert found.settings["max.message.bytes"] == str(MAX_BATCH)
    assert len(facts.brokers) == 1
    assert facts.settings[facts.brokers[0]]["offsets.retention.minutes"] == "10080"


async def test_the_age_of_what_is_unread_and_what_was_deleted_are_read(
    kafka_bootstrap: str, redis_url: str, prefix: str
) -> None:
    settings = TransportSettings(kafka=kafka_bootstrap, redis=redis_url, prefix=prefix)
    site = KafkaSite(kafka_bootstrap, prefix)
    bus, topic, now = await site.connect(), settings.names.infer_topic("m", "1"), time.time()
    await bus.ensure_topic(topic, 1)
    await bus.publish(topic, [OutRecord(b"x", timestamp=now - age) for age in (5000, 4000, 3000, 2000)])
    untouched = await read_kafka(settings)
    owner = Owner()
    consumer = await bus.subscribe(topic, topic, "w0", owner)
    await site.until(lambda: len(owner.owned) == 1, consumer)
    await consumer.commit({0: 1})
    read_one = await read_kafka(settings)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=3)})
    await admin.close()
    deleted = await read_kafka(settings)
    await consumer.commit({0: 4})
    read_all = await read_kafka(settings)
    await site.close()

    def unread(facts: KafkaFacts) -> tuple[float, int]:
        (found,) = [each for each in facts.topics if each.name == topic]
        return round(found.oldest_unread, -2), found.lost

    assert [unread(facts) for facts in (untouched, read_one, deleted, read_all)] == [
        (5000, 0),
        (4000, 0),
        (2000, 2),
        (0, 0),
    ]


async def test_a_redis_is_read_without_its_secrets(redis_url: str) -> None:
    facts = await read_redis(TransportSettings(kafka="unused:1", redis=redis_url))

    assert facts.info["role"] == "master"
    assert facts.info["maxmemory_policy"] == facts.settings["maxmemory-policy"] == "noeviction"
    assert "requirepass" not in facts.settings


@pytest.mark.parametrize("own_redis", [{"rename-command": 'CONFIG ""'}], indirect=True)
async def test_a_redis_that_refuses_config_tells_what_it_tells(own_redis: RedisServer) -> None:
    facts = await read_redis(TransportSettings(kafka="unused:1", redis=own_redis.url))

    assert (facts.settings, facts.info["redis_version"][:1].isdigit()) == ({}, True)


async def test_servers_that_are_away_are_unavailable() -> None:
    settings = TransportSettings(kafka="127.0.0.1:1", redis="redis://127.0.0.1:1", connect_timeout=0.2)

    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        await read_kafka(settings)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        await read_redis(settings)
