"""Reads what `facts.KafkaFacts` says; changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from protocol.transport.facts import KafkaFacts, TopicFacts
from protocol.transport.kafka_connection import connection_options, translated
from protocol.transport.settings import TransportSettings

OFFSETS_TOPIC: Final = "__consumer_offsets"
TIMEOUT: Final = 10.0
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
    # Asked for all of them: a metadata request for one that is missing would create it where the broker allows that.
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
    return KafkaFacts(
        settings.kafka,
        brokers,
        {broker: found.get((True, str(broker)), {}) for broker in brokers},
        tuple(sorted(topics, key=lambda topic: topic.name)),
    )


def _topic(described: Mapping[str, Any], settings: Mapping[str, str]) -> TopicFacts:
    partitions = described["partitions"]
    return TopicFacts(
        described["topic"],
        min((len(partition["replicas"]) for partition in partitions), default=0),
        min((len(partition["isr"]) for partition in partitions), default=0),
        settings,
    )


def _settings(responses: Sequence[Any]) -> dict[tuple[bool, str], dict[str, str]]:
    """By (is a broker's, name); what may not be read is empty."""
    found: dict[tuple[bool, str], dict[str, str]] = {}
    for response in responses:
        for error, _, kind, name, entries, *_ in response.resources:
            values = {entry[0]: entry[1] for entry in entries if entry[1] is not None}
            found[kind == _BROKER, name] = {} if error else values
    return found
