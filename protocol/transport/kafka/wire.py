"""Kafka's two frequent requests, produce (version 7) and fetch (version 11), as bytes. Pure.

aiokafka encodes and decodes them field by field, which costs more than the rest of a request with one record. A response that this
module does not read (an error code, several topics) is left to aiokafka.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

PRODUCE: Final = (0, 7)
"""Key and version of the request."""
FETCH: Final = (1, 11)

_HEAD: Final = struct.Struct(">ihhih")
"""Length of what follows, key, version, correlation id, length of the client's id."""
_HEAD_COUNTED: Final = 10
_PRODUCE: Final = struct.Struct(">hhiih")
"""Transactional id (null), acknowledgements, timeout, number of topics, length of the topic's name."""
_BATCH: Final = struct.Struct(">iii")
"""Number of partitions, partition, length of the batch."""
_PRODUCED: Final = struct.Struct(">iihqqq")
"""Number of partitions, partition, error, offset, time of the append, start of the log."""
_FETCH: Final = struct.Struct(">iiiibiiih")
"""Replica, longest wait, least bytes, most bytes, isolation, session, its epoch, number of topics, length of the topic's name."""
_WANTED: Final = struct.Struct(">iiqqi")
"""Partition, leader's epoch, offset, start of the log, most bytes."""
_PARTITION: Final = struct.Struct(">ihqqqi")
"""Partition, error, end of the log, last stable offset, start of the log, number of aborted transactions."""
_ABORTED: Final = struct.Struct(">qq")
_DATA: Final = struct.Struct(">ii")
"""Preferred replica, length of the batches."""
_COUNT: Final = struct.Struct(">i")
_FETCH_HEAD: Final = struct.Struct(">ihii")
"""Throttle time, error, session, number of topics."""
_NAME: Final = struct.Struct(">h")
_UNKNOWN: Final = -1
_NO_FORGOTTEN_TOPIC_NO_RACK: Final = b"\0\0\0\0\0\0"
_ALL_REPLICAS: Final = -1


def request(kind: tuple[int, int], correlation: int, client: bytes, body: bytes) -> bytes:
    """A request with its length and header."""
    size = _HEAD_COUNTED + len(client) + len(body)
    return _HEAD.pack(size, *kind, correlation, len(client)) + client + body


def produce(topic: bytes, partition: int, batch: bytes, timeout_ms: int) -> bytes:
    """The body of a request to append one batch, acknowledged by all in-sync replicas."""
    head = _PRODUCE.pack(_UNKNOWN, _ALL_REPLICAS, timeout_ms, 1, len(topic))
    return b"".join((head, topic, _BATCH.pack(1, partition, len(batch)), batch))


class Produced(NamedTuple):
    """A broker's answer for one batch; `time` is -1 unless the topic's records have the time of their append."""

    error: int
    offset: int
    time: int
    log_start: int


def produced(body: bytes, topic: bytes) -> Produced:
    """Read the response to `produce`.

    Raises:
        struct.error: it is too short.
    """
    _, _, error, offset, time, log_start = _PRODUCED.unpack_from(body, _COUNT.size + _NAME.size + len(topic))
    return Produced(error, offset, time, log_start)


def fetch(topic: bytes, wanted: Sequence[tuple[int, int]], limits: tuple[int, int, int, int], isolation: int) -> bytes:
    """The body of a request for records.

    Args:
        topic: its name.
        wanted: partitions and the first offset of each.
        limits: longest wait in milliseconds, least bytes, most bytes, most bytes of a partition.
        isolation: 1 for committed transactions only.
    """
    wait, least, most, most_each = limits
    parts = [
        _FETCH.pack(_UNKNOWN, wait, least, most, isolation, 0, _UNKNOWN, 1, len(topic)),
        topic,
        _COUNT.pack(len(wanted)),
    ]
    parts += [_WANTED.pack(partition, _UNKNOWN, offset, _UNKNOWN, most_each) for partition, offset in wanted]
    parts.append(_NO_FORGOTTEN_TOPIC_NO_RACK)
    return b"".join(parts)


@dataclasses.dataclass(slots=True)
class Fetched:
    """One partition of a response.

    Attributes:
        end: of the log.
        stable: the last stable offset: an open transaction may begin there.
        aborted: (producer id, first offset) of aborted transactions.
        data: batches.
    """

    partition: int
    end: int
    stable: int
    aborted: list[tuple[int, int]]
    data: bytes


def fetched(body: bytes) -> list[Fetched] | None:
    """Read the response to `fetch`; None if it reports an error.

    Raises:
        struct.error: it is too short.
    """
    _, error, _, topics = _FETCH_HEAD.unpack_from(body)
    if error or topics > 1:
        return None
    if not topics:
        return []
    (name,) = _NAME.unpack_from(body, _FETCH_HEAD.size)
    at = _FETCH_HEAD.size + _NAME.size + name
    (count,) = _COUNT.unpack_from(body, at)
    at += _COUNT.size
    found = []
    for _ in range(count):
        partition, error, end, stable, _, transactions = _PARTITION.unpack_from(body, at)
        if error:
            return None
        at += _PARTITION.size
        aborted = []
        for _ in range(transactions):
            aborted.append(_ABORTED.unpack_from(body, at))
            at += _ABORTED.size
        _, size = _DATA.unpack_from(body, at)
        at += _DATA.size
        data = body[at : at + size] if size > 0 else b""
        at += len(data)
        found.append(Fetched(partition, end, stable, aborted, data))
    return found
