"""A real cluster: the effects of its faults, and that the fleet's own connections survive them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from time import monotonic

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaTimeoutError, NotEnoughReplicasError

from infra.local import cluster_faults, kafka_roles
from infra.local.cluster import Cluster, cluster, replica_of
from infra.local.probes import redis_words
from infra.local.process import HOST, wait_until
from infra.local.redis import RedisServer
from protocol.errors import Unavailable
from protocol.ports import FinishOutcome, OutRecord, Terminal, Wake
from protocol.transport.kafka.bus import KafkaBus
from protocol.transport.redis.store import RedisStore
from protocol.transport.settings import TransportSettings

pytestmark = [pytest.mark.servers, pytest.mark.slow]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture
def settings(running: Cluster) -> TransportSettings:
    return TransportSettings(kafka=running.kafka, redis=running.redis, prefix=f"t{secrets.token_hex(6)}")


@pytest.fixture
async def bus(settings: TransportSettings) -> AsyncIterator[KafkaBus]:
    opened = KafkaBus(settings)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def store(running: Cluster, settings: TransportSettings) -> AsyncIterator[RedisStore]:
    await asyncio.to_thread(running.wait_stores)
    opened = RedisStore(settings)
    await opened.open()
    yield opened
    await opened.close()


async def test_a_topic_of_the_fleet_has_three_copies_and_all_brokers_lead(
    running: Cluster, bus: KafkaBus, settings: TransportSettings
) -> None:
    topic = settings.names.infer_topic("m", "1")

    await bus.ensure_topic(topic, 6)
    await asyncio.to_thread(running.wait_brokers)

    made = [entry for entry in kafka_roles.partitions(HOST, running.brokers[0].port) if entry[0] == topic]
    assert [sorted(in_sync) for _, _, _, in_sync in made] == [[1, 2, 3]] * 6
    assert {leader for _, leader, _, _ in made} == {1, 2, 3}


def replicas_of(running: Cluster, topic: str) -> list[list[int]]:
    """The brokers of each partition, as any broker that runs knows them."""
    made = kafka_roles.partitions(HOST, running.any_broker().port)
    return [sorted(replicas) for name, _, replicas, _ in made if name == topic]


async def test_a_killed_leader_costs_no_acknowledged_record_and_with_two_away_nothing_is_acknowledged(
    running: Cluster, bus: KafkaBus, settings: TransportSettings
) -> None:
    topic = settings.names.infer_topic("m", "1")
    await bus.ensure_topic(topic, 3)
    killed = cluster_faults.leader(running)
    ended = next(broker for broker in running.brokers if broker is not killed)
    acknowledged: list[int] = []

    async def write() -> None:
        for number in itertools.count():
            with contextlib.suppress(Unavailable):
                await bus.publish(topic, [OutRecord(b"%d" % number)])
                acknowledged.append(number)

    writing = asyncio.create_task(write())
    async with asyncio.timeout(30):
        while not acknowledged:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.to_thread(killed.kill)
        before = len(acknowledged)
        while len(acknowledged) < before + 100:  # noqa: ASYNC110  # with a broker less, also where it led
            await asyncio.sleep(0.01)
    writing.cancel()
    later = settings.names.infer_topic("later", "1")
    await bus.ensure_topic(later, 3)
    async with asyncio.timeout(30):
        while not (replicas := replicas_of(running, later)):  # noqa: ASYNC110  # this broker has not heard of it yet
            await asyncio.sleep(0.05)
    assert replicas == [[1, 2, 3]] * 3

    await asyncio.to_thread(ended.stop)
    assert await refused(running, topic) == "NotEnoughReplicasError"

    for broker in (killed, ended):
        broker.launch()
    await asyncio.to_thread(running.wait_brokers)
    await bus.publish(topic, [OutRecord(b"-1")])
    assert {-1, *acknowledged} <= await numbers(running, topic)


async def test_the_fleets_store_follows_a_failover(running: Cluster, store: RedisStore) -> None:
    woken: list[Wake] = []
    await store.listen("gateway", woken.extend)
    assert await store.finish([Terminal("before", b"x", "gateway")]) == [FinishOutcome.WRITTEN]
    await until_replicated(running)
    old = running.primary

    old.kill()
    assert await finished(store, "after") is FinishOutcome.WRITTEN

    assert running.primary is not old
    assert await finished(store, "before") is FinishOutcome.ALREADY_TERMINAL
    old.config |= replica_of(running.primary)
    await asyncio.to_thread(old.start)
    async with asyncio.timeout(5):
        while len(woken) < 2:  # at some point it also listens to the new one
            await finished(store, secrets.token_hex(4))


async def test_a_primary_that_stands_still_is_left_and_not_gone_back_to(running: Cluster, store: RedisStore) -> None:
    old = running.primary
    await store.finish([Terminal("before", b"x")])
    await until_replicated(running)

    os.kill(old.pid, signal.SIGSTOP)
    try:
        assert await finished(store, "while it stands still") is FinishOutcome.WRITTEN
    finally:
        os.kill(old.pid, signal.SIGCONT)

    assert await finished(store, "when it goes on") is FinishOutcome.WRITTEN
    (state,) = await store.look(["while it stands still"])
    assert state is not None
    assert (running.primary is not old, state.payload) == (True, b"x")
    old.kill()  # Sentinels take half a minute to make it a replica
    old.config |= replica_of(running.primary)
    await asyncio.to_thread(old.start)


async def finished(store: RedisStore, ref: str) -> FinishOutcome:
    """The outcome of an answer that is retried until the store takes it, as workers do."""
    async with asyncio.timeout(15):
        while True:
            try:
                (outcome,) = await store.finish([Terminal(ref, b"x", "gateway")])
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                return outcome


async def until_replicated(running: Cluster) -> None:
    """Wait until the replica has all of the primary's writes so far."""
    primary, replica = running.primary, running.replica
    wanted = offset(primary, "master_repl_offset")
    arrived = await asyncio.to_thread(
        wait_until, lambda: offset(replica, "slave_repl_offset") >= wanted, monotonic() + 5
    )
    assert arrived


def offset(server: RedisServer, name: str) -> int:
    (text,) = redis_words(HOST, server.port, "INFO", "replication")
    return int(dict(line.split(":") for line in text.splitlines() if ":" in line)[name])


async def refused(running: Cluster, topic: str) -> str:
    """The name of the error that a write gets, wherever the leader is still up."""
    async with AIOKafkaProducer(bootstrap_servers=running.kafka, acks="all", request_timeout_ms=2000) as producer:
        partitions = await producer.partitions_for(topic)
        for partition in partitions:
            with contextlib.suppress(KafkaTimeoutError):
                try:
                    await producer.send_and_wait(topic, b"x", partition=partition)
                except NotEnoughReplicasError as error:
                    return type(error).__name__
                return "acknowledged"
    return "silence"


async def numbers(running: Cluster, topic: str) -> set[int]:
    """All records of a topic."""
    found: set[int] = set()
    async with AIOKafkaConsumer(bootstrap_servers=running.kafka, auto_offset_reset="earliest") as consumer:
        places = [TopicPartition(topic, number) for number in range(3)]
        consumer.assign(places)
        for place, end in (await consumer.end_offsets(places)).items():
            while await consumer.position(place) < end:
                for records in (await consumer.getmany(place, timeout_ms=200)).values():
                    found |= {int(record.value) for record in records}
    return found
