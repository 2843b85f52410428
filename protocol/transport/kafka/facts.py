"""Reads `KafkaFacts` from a cluster; changes nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from protocol.transport.facts import KafkaFacts, TopicFacts
from protocol.transport.kafka.aiokafka_internals import ConfigResource, ConfigResourceType, client_of
from protocol.transport.kafka.connection import connection_options, consumer_limits, translated
from protocol.transport.kafka.reader import fetch_one
from protocol.transport.settings import TransportSettings

OFFSETS_TOPIC: Final = "__consumer_offsets"
TIMEOUT: Final = 30.0
PAUSE: Final = 0.2
_BROKER: Final = 4


async def read_kafka(settings: TransportSettings) -> KafkaFacts:
    """The cluster's settings, and those of the fleet's topics.

    Raises:
        Unavailable: no broker answers.
    """
    try:
        async with asyncio.timeout(TIMEOUT):
            admin = AIOKafkaAdminClient(**connection_options(settings))
            try:
                await admin.start()
                return await _read(admin, settings)
            finally:
                await admin.close()
    except (KafkaError, OSError, TimeoutError) as exc:
        raise translated(exc, f"reading the settings of Kafka at {settings.kafka}") from None


async def _read(admin: AIOKafkaAdminClient, settings: TransportSettings) -> KafkaFacts:
    cluster = await admin.describe_cluster()
    brokers = tuple(sorted(broker["node_id"] for broker in cluster["brokers"]))
    # All topics are listed: a metadata request for a missing one would create it if the broker allows that.
    names = [
        name
        for name in await admin.list_topics()
        if name == OFFSETS_TOPIC or name.startswith(f"{settings.names.prefix}.")
    ]
    described = await admin.describe_topics(names) if names else []
    resources = [ConfigResource(ConfigResourceType.BROKER, str(broker)) for broker in brokers]
    resources += [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    found = _settings(await admin.describe_configs(resources))
    topics = [_topic(topic, found.get((False, topic["topic"]), {})) for topic in described]
    prefix = settings.names.prefix
    served = [topic for topic in topics if topic.name.startswith((f"{prefix}.infer.", f"{prefix}.batch."))]
    unread = await read_unread(admin, settings, {t["topic"]: len(t["partitions"]) for t in described}, served)
    topics = [unread.get(topic.name, topic) for topic in topics]
    return KafkaFacts(
        settings.kafka,
        brokers,
        {broker: found.get((True, str(broker)), {}) for broker in brokers},
        tuple(sorted(topics, key=lambda topic: topic.name)),
    )


async def read_unread(
    admin: AIOKafkaAdminClient, settings: TransportSettings, partitions: Mapping[str, int], served: Sequence[TopicFacts]
) -> dict[str, TopicFacts]:
    """The topics with the facts about their unread records. A group has the name of its topic.

    Raises:
        KafkaError: a log or a group cannot be read.
    """
    if not served:
        return {}  # aiokafka's consumer cannot be stopped right after its start
    consumer = AIOKafkaConsumer(**consumer_limits(settings), **connection_options(settings))
    try:
        await consumer.start()
        return {topic.name: await _settled(_unread, admin, consumer, topic, partitions[topic.name]) for topic in served}
    finally:
        await consumer.stop()


async def _settled(read: Callable[..., Awaitable[TopicFacts]], *arguments: Any) -> TopicFacts:
    """Retry while there is no leader or coordinator yet, as on a broker that has just created its offsets topic."""
    while True:
        try:
            return await read(*arguments)
        except KafkaError as exc:
            if not exc.retriable:
                raise
            await asyncio.sleep(PAUSE)


async def _unread(
    admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer, topic: TopicFacts, partitions: int
) -> TopicFacts:
    places = [TopicPartition(topic.name, number) for number in range(partitions)]
    starts, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
    committed = await admin.list_consumer_group_offsets(topic.name, partitions=places)
    oldest, lost, now = 0.0, 0, time.time()
    for place in places:
        position = committed[place].offset if place in committed else -1
        lost += max(0, starts[place] - position) if position >= 0 else 0
        if max(position, starts[place]) < ends[place]:
            record = await fetch_one(client_of(consumer), place, max(position, starts[place]))
            oldest = max(oldest, now - record.timestamp if record is not None and record.timestamp > 0 else 0.0)
    return dataclasses.replace(topic, oldest_unread=oldest, lost=lost)


def _topic(described: Mapping[str, Any], settings: Mapping[str, str]) -> TopicFacts:
    partitions = described["partitions"]
    return TopicFacts(
        described["topic"],
        min((len(partition["replicas"]) for partition in partitions), default=0),
        min((len(partition["isr"]) for partition in partitions), default=0),
        settings,
    )


def _settings(responses: Sequence[Any]) -> dict[tuple[bool, str], dict[str, str]]:
    """By (whether it is a broker's, name); empty if they may not be read."""
    found: dict[tuple[bool, str], dict[str, str]] = {}
    for response in responses:
        for error, _, kind, name, entries, *_ in response.resources:
            values = {entry[0]: entry[1] for entry in entries if entry[1] is not None}
            found[kind == _BROKER, name] = {} if error else values
    return found
