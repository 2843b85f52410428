"""Where a group stands on a topic: committed offsets that say of which log they are.

A topic can be deleted and made again under its name. Kafka then deletes the group's offsets, but a member that has not noticed
commits the old ones again, and they would hide the first records of the new log. So every commit carries the id of its topic
(KIP-516), and an offset that carries another one counts for nothing. One that carries none was set by an operator and counts.

Nothing here is asked on the connection that records are fetched on. A broker answers a connection's requests in order, and a fetch
waits there for records, for half a second where none come: a rebalance would stop a model's partitions for that long, twice.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import logging
import time
from collections.abc import Sequence
from io import BytesIO
from typing import Final, TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import LeaderNotAvailableError, NoError, UnknownTopicOrPartitionError
from aiokafka.structs import OffsetAndMetadata

from protocol.ports import Assigned
from protocol.transport.kafka.aiokafka_internals import (
    AbstractType,
    AIOKafkaClient,
    Boolean,
    CompactArray,
    CompactString,
    ConnectionGroup,
    Int16,
    Int32,
    OffsetRequest,
    OffsetResetStrategy,
    Request,
    RequestStruct,
    Response,
    Schema,
    TaggedFields,
    client_of,
    coordinator_of,
    for_code,
)

log = logging.getLogger(__name__)

MARK: Final = "topic-id="
NO_ID: Final = bytes(16)
NO_REPLICA: Final = -1
READ_COMMITTED: Final = 1


class _Uuid(AbstractType[bytes]):  # type: ignore[misc]
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


# --- Metadata with ids (version 12; aiokafka has versions 0 to 5) ---


class MetadataResponse_v12(Response):  # type: ignore[misc]  # noqa: D101, N801
    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class MetadataRequest_v12(RequestStruct):  # type: ignore[misc]  # noqa: D101, N801
    API_KEY = 3
    API_VERSION = 12
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = MetadataResponse_v12
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


_Struct: TypeAlias = MetadataRequest_v12


class TopicMetadata(Request[_Struct]):  # type: ignore[misc]
    """Asks for one topic, and creates none."""

    API_KEY = 3

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def build(self, request_struct_class: type[_Struct]) -> _Struct:
        """The request in the version that the broker speaks."""
        return request_struct_class([(NO_ID, self._topic, {})], False, False, {})


class TopicName:
    """A topic's name, and which topic stands behind it.

    Attributes:
        id: tells this topic from an earlier one of the same name, as Kafka's tools print it; "" before the first `resolve`.
    """

    def __init__(self, topic: str) -> None:
        self.id = ""
        self._gone_since: float | None = None
        self._topic = topic

    @property
    def gone(self) -> bool:
        """Whether there is none at the moment."""
        return self._gone_since is not None

    def gone_for(self, now: float) -> float:
        """Seconds since that was seen; 0 where there is one."""
        return 0.0 if self._gone_since is None else now - self._gone_since

    async def resolve(self, client: AIOKafkaClient) -> None:
        """Read the id.

        Raises:
            KafkaError: there is no such topic, or no broker tells.
        """
        self.id = await _topic_id(client, self._topic)

    async def moved(self, client: AIOKafkaClient) -> bool:
        """Whether another topic has the name now. Reading goes by name: a reader would go on at its offset in that one.

        Raises:
            KafkaError: no broker tells.
        """
        was_gone = self.gone
        try:
            found = await _topic_id(client, self._topic)
        except UnknownTopicOrPartitionError:
            if not was_gone:
                log.error("topic %s does not exist any more", self._topic)
                self._gone_since = time.monotonic()
            return False
        self._gone_since = None
        self.id = self.id or found  # a member without partitions has read nothing yet
        return was_gone or found != self.id


async def _topic_id(client: AIOKafkaClient, topic: str) -> str:
    response = await client.send(client.get_random_node(), TopicMetadata(topic), group=ConnectionGroup.COORDINATION)
    ((code, _, number, *_),) = response.topics
    error = for_code(code)
    if error is not NoError:
        raise error(topic)
    return base64.urlsafe_b64encode(number).decode().rstrip("=")


# --- offsets ---


def offset_of(offset: int, topic: str) -> tuple[int, str]:
    """An offset as it is committed.

    Args:
        offset: the next one to read.
        topic: the topic's id.
    """
    return offset, MARK + topic


def counts(told: OffsetAndMetadata, end: int, topic: str) -> bool:
    """Whether a committed offset is one of this log. Behind its end it is not: the log was cut short, or is another one."""
    if told.offset > end:
        return False
    return not told.metadata.startswith(MARK) or told.metadata == MARK + topic


async def read_positions(
    inner: AIOKafkaConsumer, partitions: Sequence[TopicPartition], topic: TopicName
) -> tuple[list[Assigned], list[TopicPartition]]:
    """Where each partition stands, and those of which nothing that was committed counts: they stand at the log's start.

    Args:
        inner: a member of the group.
        partitions: of one topic, at least one.
        topic: its name; its id is read anew.

    Raises:
        KafkaError: a leader or the group's coordinator does not tell.
    """
    committed: dict[TopicPartition, OffsetAndMetadata]
    committed, _ = await asyncio.gather(
        coordinator_of(inner).fetch_committed_offsets(partitions), topic.resolve(client_of(inner))
    )
    # Later than the committed offsets, which then cannot be behind an end that has moved meanwhile.
    starts, ends = await asyncio.gather(
        _log_offsets(client_of(inner), partitions, OffsetResetStrategy.EARLIEST),
        _log_offsets(client_of(inner), partitions, OffsetResetStrategy.LATEST),
    )
    entries, anew = [], []
    for partition in partitions:
        start, end, told = starts[partition.partition], ends[partition.partition], committed.get(partition)
        if told is not None and counts(told, end, topic.id):
            entries.append(Assigned(partition.partition, told.offset, end, start))
        else:
            entries.append(Assigned(partition.partition, start, end, start))
            anew.append(partition)
    return entries, anew


async def _log_offsets(client: AIOKafkaClient, partitions: Sequence[TopicPartition], which: int) -> dict[int, int]:
    """Where the log of each partition starts, or ends for those who read what is committed.

    Raises:
        KafkaError: a leader is not known or does not tell; who leads is then asked anew.
    """
    topic = partitions[0].topic
    led: dict[int, list[int]] = collections.defaultdict(list)
    for partition in partitions:
        leader = client.cluster.leader_for_partition(partition)
        led[-1 if leader is None else leader].append(partition.partition)
    if -1 in led:
        await client.force_metadata_update()
        raise LeaderNotAvailableError(f"partitions {led[-1]} of {topic}")
    told = await asyncio.gather(*(_told_by(client, node, topic, numbers, which) for node, numbers in led.items()))
    return {number: offset for offsets in told for number, offset in offsets.items()}


async def _told_by(
    client: AIOKafkaClient, node: int, topic: str, partitions: Sequence[int], which: int
) -> dict[int, int]:
    request = OffsetRequest(NO_REPLICA, READ_COMMITTED, [(topic, [(number, which) for number in partitions])])
    response = await client.send(node, request, group=ConnectionGroup.COORDINATION)
    ((_, parts),) = response.topics
    for number, code, *_ in parts:
        error = for_code(code)
        if error is not NoError:
            if error.invalid_metadata:
                await client.force_metadata_update()
            raise error(f"partition {number} of {topic}")
    return {number: offset for number, _, _, offset in parts}
