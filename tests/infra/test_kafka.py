import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from infra.local.installation import Installation
from infra.local.kafka import PROFILE, Broker, parse_properties, single_node
from protocol.errors import ConfigError, Unavailable

MEBIBYTE = 1 << 20


@asynccontextmanager
async def admin(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def create(bootstrap: str, topic: str) -> None:
    async with admin(bootstrap) as client:
        await client.create_topics([NewTopic(topic, num_partitions=4, replication_factor=1)])


async def publish(bootstrap: str, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, max_request_size=17 * MEBIBYTE
    ) as producer:
        await producer.send_and_wait(topic, value)


async def read_one(bootstrap: str, topic: str, group: str) -> bytes:
    async with AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        group_instance_id="one",
        session_timeout_ms=1000,
        heartbeat_interval_ms=300,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=17 * MEBIBYTE,
    ) as consumer:
        value: bytes = (await consumer.getone()).value
        return value


def test_reads_the_properties_that_ship() -> None:
    properties = parse_properties(PROFILE.read_text())

    assert int(properties["message.max.bytes"]) >= 16 * MEBIBYTE
    assert int(properties["replica.fetch.max.bytes"]) >= 16 * MEBIBYTE
    assert properties["auto.create.topics.enable"] == "false"
    assert "classic" in properties["group.coordinator.rebalance.protocols"].split(",")
    assert not any(key.startswith("#") for key in properties)


def test_what_the_machine_decides_is_not_in_the_profile() -> None:
    assert not parse_properties(PROFILE.read_text()).keys() & single_node(1, 2, Path("/data")).keys()


@pytest.mark.servers
async def test_carries_a_record_of_16_mebibytes(kafka_bootstrap: str, prefix: str) -> None:
    value = os.urandom(16 * MEBIBYTE)
    await create(kafka_bootstrap, f"{prefix}.large")

    await publish(kafka_bootstrap, f"{prefix}.large", value)

    assert await read_one(kafka_bootstrap, f"{prefix}.large", group=prefix) == value


@pytest.mark.servers
async def test_no_topic_is_made_by_asking_for_it(kafka_bootstrap: str, prefix: str) -> None:
    async with admin(kafka_bootstrap) as client:
        await client.describe_topics([f"{prefix}.mistyped"])

        assert f"{prefix}.mistyped" not in await client.list_topics()


@pytest.mark.servers
async def test_a_restart_keeps_address_and_topics(own_kafka: Broker, prefix: str) -> None:
    address, first = own_kafka.bootstrap, own_kafka.pid
    await create(address, f"{prefix}.kept")
    await publish(address, f"{prefix}.kept", b"still here")

    own_kafka.restart()

    assert own_kafka.bootstrap == address
    assert own_kafka.pid != first
    assert await read_one(address, f"{prefix}.kept", group=prefix) == b"still here"
    assert f"Kafka version: {own_kafka.version}" in own_kafka.log.read_text()


@pytest.mark.servers
async def test_a_killed_broker_recovers_what_it_acknowledged(own_kafka: Broker, prefix: str) -> None:
    await create(own_kafka.bootstrap, f"{prefix}.kept")
    await publish(own_kafka.bootstrap, f"{prefix}.kept", b"still here")

    own_kafka.kill()
    assert not own_kafka.running
    assert not own_kafka.answers()
    own_kafka.restart()

    assert await read_one(own_kafka.bootstrap, f"{prefix}.kept", group=prefix) == b"still here"


@pytest.mark.servers
@pytest.mark.parametrize("own_kafka", [{"num.partitions": "7"}], indirect=True)
async def test_the_callers_properties_go_before_the_profiles(own_kafka: Broker) -> None:
    asked = ConfigResource(ConfigResourceType.BROKER, "1", {"num.partitions": None, "message.max.bytes": None})
    async with admin(own_kafka.bootstrap) as client:
        (answer,) = await client.describe_configs([asked])

    values = {name: value for name, value, *_ in answer.resources[0][4]}
    assert values == {"num.partitions": "7", "message.max.bytes": "17825792"}


@pytest.mark.servers
def test_a_broker_that_cannot_start_says_why(own_kafka: Broker, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="already runs"):
        own_kafka.launch()
    second = Broker(tmp_path / "second", port=own_kafka.port)

    with pytest.raises(Unavailable, match=f"port {own_kafka.port}, which is in use"):
        second.start()

    assert not second.running


@pytest.mark.servers
def test_a_property_that_kafka_refuses_is_named(kafka_installation: Installation, tmp_path: Path) -> None:
    broker = Broker(tmp_path, properties={"num.network.threads": "none"}, installed=kafka_installation)

    with pytest.raises(Unavailable, match=r"num\.network\.threads"):
        broker.start()


@pytest.mark.servers
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux pins threads to cores")
def test_every_thread_runs_on_the_cores_it_was_pinned_to(kafka_installation: Installation, tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))

    with Broker(tmp_path, cores=cores[:1], installed=kafka_installation) as broker:
        assert affinities(broker.pid) == {tuple(cores[:1])}
        broker.pin(cores[-1:])
        assert affinities(broker.pid) == {tuple(cores[-1:])}

        assert broker.cpu_seconds() > 0.5
        assert 50 * MEBIBYTE < broker.memory_bytes() < 1024 * MEBIBYTE
    assert sorted(os.sched_getaffinity(0)) == cores


def affinities(pid: int) -> set[tuple[int, ...]]:
    """The cores of every live thread."""
    found = set()
    for thread in psutil.Process(pid).threads():
        try:
            found.add(tuple(sorted(os.sched_getaffinity(thread.id))))
        except ProcessLookupError:
            continue
    return found
