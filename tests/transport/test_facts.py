"""Reading the settings of a real broker and a real Redis."""

from __future__ import annotations

import contextlib

import pytest

from infra.local.redis import RedisServer
from protocol.errors import Unavailable
from protocol.transport import open_transport
from protocol.transport.kafka_connection import MAX_BATCH
from protocol.transport.kafka_facts import read_kafka
from protocol.transport.redis_facts import read_redis
from protocol.transport.settings import TransportSettings


async def test_a_brokers_and_its_topics_settings_are_read(kafka_bootstrap: str, redis_url: str, prefix: str) -> None:
    settings = TransportSettings(kafka=kafka_bootstrap, redis=redis_url, prefix=prefix)
    async with contextlib.AsyncExitStack() as stack:
        bus = open_transport(settings).bus
        await bus.open()
        stack.push_async_callback(bus.close)
        topic = settings.names.infer_topic("m", "1")
        await bus.ensure_topic(topic, 2)
        facts = await read_kafka(settings)

    (found,) = [each for each in facts.topics if each.name.startswith(prefix)]
    assert (found.name, found.replicas, found.in_sync) == (topic, 1, 1)
    assert found.settings["max.message.bytes"] == str(MAX_BATCH)
    assert len(facts.brokers) == 1
    assert facts.settings[facts.brokers[0]]["offsets.retention.minutes"] == "10080"


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
