"""Where the logs of many topics begin and end, in one request for metadata and two to each leader."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Collection
from typing import Final

from aiokafka.errors import NoError, TopicAuthorizationFailedError

from protocol.transport.kafka.aiokafka_internals import (
    AIOKafkaClient,
    ConnectionGroup,
    MetadataRequest,
    OffsetRequest,
    OffsetResetStrategy,
    for_code,
)
from protocol.transport.kafka.positions import NO_REPLICA, READ_COMMITTED

TOPICS_IN_CALL: Final = 1000
"""Topics of one request."""
_NONE: Final = -1

Extents = dict[str, dict[int, tuple[int, int]]]


async def fetch_extents(client: AIOKafkaClient, topics: Collection[str]) -> Extents:
    """By topic and partition, the log's start and end. See `protocol.ports.Bus.extents`.

    Raises:
        KafkaError: a broker does not answer, or access is denied.
    """
    named, found = sorted(set(topics)), Extents()
    for first in range(0, len(named), TOPICS_IN_CALL):
        led = await _leaders(client, named[first : first + TOPICS_IN_CALL], found)
        parts = await asyncio.gather(*(_extents_at(client, leader, of) for leader, of in led.items()))
        for topic, partition, start, end in (entry for part in parts for entry in part):
            found[topic][partition] = start, end
    return found


async def _leaders(client: AIOKafkaClient, topics: list[str], found: Extents) -> dict[int, dict[str, list[int]]]:
    """The partitions that each broker leads; notes the topics that exist."""
    request = MetadataRequest(topics, allow_auto_topic_creation=False)
    response = await client.send(client.get_random_node(), request, group=ConnectionGroup.COORDINATION)
    brokers = {node for node, *_ in response.brokers}
    led: dict[int, dict[str, list[int]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for code, topic, _, partitions in response.topics:
        error = for_code(code)
        if error is TopicAuthorizationFailedError:
            raise error(topic)
        if error is not NoError:
            continue
        found[topic] = {}
        for _, partition, leader, *_ in partitions:
            if leader in brokers:
                led[leader][topic].append(partition)
    return led


async def _extents_at(
    client: AIOKafkaClient, leader: int, led: dict[str, list[int]]
) -> list[tuple[str, int, int, int]]:
    # The start is read first: a log whose end was read before could begin beyond it.
    starts = await _offsets_at(client, leader, led, OffsetResetStrategy.EARLIEST)
    ends = await _offsets_at(client, leader, led, OffsetResetStrategy.LATEST)
    return [(*place, starts[place], end) for place, end in ends.items() if place in starts]


async def _offsets_at(
    client: AIOKafkaClient, leader: int, led: dict[str, list[int]], which: int
) -> dict[tuple[str, int], int]:
    asked = [(topic, [(partition, which) for partition in partitions]) for topic, partitions in led.items()]
    response = await client.send(
        leader, OffsetRequest(NO_REPLICA, READ_COMMITTED, asked), group=ConnectionGroup.COORDINATION
    )
    return {
        (topic, partition): offset
        for topic, partitions in response.topics
        for partition, code, _, offset in partitions
        if for_code(code) is NoError and offset > _NONE
    }
