"""Where a group resumes on a topic: committed offsets that carry the topic's id.

A topic can be deleted and created again under its name. Kafka then deletes the group's offsets, but a member that has not noticed
commits the old ones again, and they would hide the first records of the new log. So every commit carries the id of its topic
(KIP-516), and an offset with another id is ignored. An offset without an id was set by an operator and is valid.

No request here uses the connection that fetches use. A broker answers a connection's requests in order, and a fetch without records
waits there for half a second: a rebalance would stop a model's partitions for that long, twice.
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
    """Metadata of one topic; never creates it."""

    API_KEY = 3

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def build(self, request_struct_class: type[_Struct]) -> _Struct:
        """The request in the version that the broker speaks."""
        return request_struct_class([(NO_ID, self._topic, {})], False, False, {})


class TopicName:
    """A topic's name, and which topic has it now.

    Attributes:
        id: distinguishes this topic from an earlier one of the same name, as Kafka's tools print it; "" before `resolve`.
        partitions: how many it had when it was last looked at; 0 before.
    """

    def __init__(self, topic: str) -> None:
        self.id = ""
        self.partitions = 0
        self._gone_since: float | None = None
        self._topic = topic

    @property
    def gone(self) -> bool:
        """Whether no topic has the name at the moment."""
        return self._gone_since is not None

    def gone_for(self, now: float) -> float:
        """Seconds since it was first seen to be gone; 0 if it exists."""
        return 0.0 if self._gone_since is None else now - self._gone_since

    async def resolve(self, client: AIOKafkaClient) -> None:
        """Read the id.

        Raises:
            KafkaError: there is no such topic, or no broker answers.
        """
        self.id, self.partitions = await _topic_now(client, self._topic)

    async def moved(self, client: AIOKafkaClient) -> bool:
        """Whether another topic has the name now. Fetches go by name: a reader would continue at its offset in the new topic.

        Raises:
            KafkaError: no broker answers.
        """
        was_gone = self.gone
        try:
            found, self.partitions = await _topic_now(client, self._topic)
        except UnknownTopicOrPartitionError:
            if not was_gone:
                log.error("topic %s no longer exists", self._topic)
                self._gone_since = time.monotonic()
            return False
        self._gone_since = None
        self.id = self.id or found  # a member without partitions has read nothing yet
        return was_gone or found != self.id


async def _topic_now(client: AIOKafkaClient, topic: str) -> tuple[str, int]:
    """The topic's id, and how many partitions it has."""
    response = await client.send(client.get_random_node(), TopicMetadata(topic), group=ConnectionGroup.COORDINATION)
    ((code, _, number, _, partitions, *_),) = response.topics
    error = for_code(code)
    if error is not NoError:
        raise error(topic)
    return base64.urlsafe_b64encode(number).decode().rstrip("="), len(partitions)


# --- offsets ---


def offset_of(offset: int, topic: str) -> tuple[int, str]:
    """An offset and its metadata, as they are committed.

    Args:
        offset: the next to read.
        topic: the topic's id.
    """
    return offset, MARK + topic


def is_of_log(committed: OffsetAndMetadata, end: int, topic: str) -> bool:
    """Whether a committed offset is of this log. Beyond its end it is not: the log was truncated or replaced."""
    if committed.offset > end:
        return False
    return not committed.metadata.startswith(MARK) or committed.metadata == MARK + topic


async def read_positions(
    inner: AIOKafkaConsumer, partitions: Sequence[TopicPartition], topic: TopicName
) -> tuple[list[Assigned], list[TopicPartition]]:
    """Each partition's offsets, and the partitions without a valid committed offset, which begin at the log's start.

    Args:
        inner: a member of the group.
        partitions: of one topic, at least one.
        topic: its name; its id is resolved again.

    Raises:
        KafkaError: a leader or the group's coordinator does not answer.
    """
    committed: dict[TopicPartition, OffsetAndMetadata]
    committed, _ = await asyncio.gather(
        coordinator_of(inner).fetch_committed_offsets(partitions), topic.resolve(client_of(inner))
    )
    # Read after the committed offsets, so that none of those can lie beyond an end that has moved meanwhile.
    starts, ends = await asyncio.gather(
        _log_offsets(client_of(inner), partitions, OffsetResetStrategy.EARLIEST),
        _log_offsets(client_of(inner), partitions, OffsetResetStrategy.LATEST),
    )
    entries, anew = [], []
    for partition in partitions:
        start, end, found = starts[partition.partition], ends[partition.partition], committed.get(partition)
        if found is not None and is_of_log(found, end, topic.id):
            entries.append(Assigned(partition.partition, found.offset, end, start))
        else:
            entries.append(Assigned(partition.partition, start, end, start))
            anew.append(partition)
    return entries, anew


async def _log_offsets(client: AIOKafkaClient, partitions: Sequence[TopicPartition], which: int) -> dict[int, int]:
    """Each partition's log start, or its last stable offset.

    Raises:
        KafkaError: a leader is unknown or does not answer; the metadata is then updated.
    """
    topic = partitions[0].topic
    led: dict[int, list[int]] = collections.defaultdict(list)
    for partition in partitions:
        leader = client.cluster.leader_for_partition(partition)
        led[-1 if leader is None else leader].append(partition.partition)
    if -1 in led:
        await client.force_metadata_update()
        raise LeaderNotAvailableError(f"partitions {led[-1]} of {topic}")
    found = await asyncio.gather(*(_offsets_of(client, node, topic, numbers, which) for node, numbers in led.items()))
    return {number: offset for offsets in found for number, offset in offsets.items()}


async def _offsets_of(
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
