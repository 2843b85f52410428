"""The roles of brokers in a running cluster, read from a broker over a socket, so that a fault can pick its victim by role."""

from __future__ import annotations

import collections
import io
import socket
import struct
from typing import Any

from protocol.transport.kafka.aiokafka_internals import (
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    ListGroupsRequest_v1,
    MetadataRequest_v1,
    RequestStruct,
    Response,
    Schema,
    TaggedFields,
)

TIMEOUT = 5.0
LOG_OF_CONTROLLERS = "__cluster_metadata"


class _DescribeQuorumResponse(Response):  # type: ignore[misc]
    """The reply up to the leader; the rest is not read."""

    API_KEY = 55
    API_VERSION = 0
    SCHEMA = Schema(
        ("error_code", Int16),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("index", Int32),
                        ("error_code", Int16),
                        ("leader", Int32),
                        ("epoch", Int32),
                        ("high_watermark", Int64),
                        ("voters", CompactArray(("id", Int32), ("end", Int64), ("tags", TaggedFields))),
                        ("observers", CompactArray(("id", Int32), ("end", Int64), ("tags", TaggedFields))),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _DescribeQuorumRequest(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 55
    API_VERSION = 0
    RESPONSE_TYPE = _DescribeQuorumResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("partitions", CompactArray(("index", Int32), ("tags", TaggedFields))),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


def leaders(host: str, port: int) -> collections.Counter[int]:
    """The number of partitions that each node leads; -1 stands for those without a leader."""
    return collections.Counter(leader for _, leader, _, _ in partitions(host, port))


def partitions(host: str, port: int) -> list[tuple[str, int, list[int], list[int]]]:
    """Topic, leader, replicas and in-sync replicas of every partition.

    Raises:
        OSError: the broker does not answer.
    """
    answer = _ask(host, port, MetadataRequest_v1(None))
    return [
        (topic, leader, replicas, in_sync)
        for _, topic, _, listed in answer.topics
        for _, _, leader, replicas, in_sync in listed
    ]


def nodes(host: str, port: int) -> set[int]:
    """The brokers that take work, as this one knows."""
    return {node for node, *_ in _ask(host, port, MetadataRequest_v1([])).brokers}


def groups(host: str, port: int) -> int:
    """How many consumer groups this broker coordinates."""
    return len(_ask(host, port, ListGroupsRequest_v1()).groups)


def controller(host: str, port: int) -> int:
    """The node that is the active controller; -1 while there is none."""
    request = _DescribeQuorumRequest([(LOG_OF_CONTROLLERS, [(0, {})], {})], {})
    topics = _ask(host, port, request).topics
    return int(topics[0][1][0][2]) if topics else -1


def _ask(host: str, port: int, request: RequestStruct) -> Any:
    header = request.build_request_header(correlation_id=1, client_id="penstock")
    message = header.encode() + request.encode()
    with socket.create_connection((host, port), TIMEOUT) as connection:
        connection.sendall(struct.pack(">i", len(message)) + message)
        stream = connection.makefile("rb")
        head = stream.read(4)
        answer = io.BytesIO(stream.read(struct.unpack(">i", head)[0]) if len(head) == 4 else b"")
    if not answer.getvalue():
        raise ConnectionError("closed in the middle of an answer")
    request.parse_response_header(answer)
    return request.RESPONSE_TYPE.decode(answer)
