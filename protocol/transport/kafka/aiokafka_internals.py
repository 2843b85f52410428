"""Everything of aiokafka that is not its documented API: private attributes, undocumented modules, functions and methods.

No other module uses such a name. `tests/transport/test_aiokafka_internals.py` has a test per name, which says what another
version lacks; pyproject.toml bounds aiokafka to the version that the tests ran on.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition, errors
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.admin import ListGroupsRequest_v1
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest, MetadataRequest_v1
from aiokafka.protocol.offset import OffsetRequest, OffsetResetStrategy
from aiokafka.protocol.types import (
    Array,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    TaggedFields,
)
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch

__all__ = [
    "AIOKafkaClient",
    "AbstractPartitionAssignor",
    "AbstractType",
    "Array",
    "Boolean",
    "BusyBrokers",
    "CompactArray",
    "CompactString",
    "ConfigResource",
    "ConfigResourceType",
    "ConnectionGroup",
    "ConsumerProtocolMemberAssignment",
    "ConsumerProtocolMemberMetadata",
    "CoordinationType",
    "DefaultRecordBatch",
    "FetchRequest",
    "FetchedRecords",
    "Int16",
    "Int32",
    "Int64",
    "LegacyRecordBatch",
    "ListGroupsRequest_v1",
    "MetadataRequest",
    "MetadataRequest_v1",
    "OffsetFetchRequest",
    "OffsetRequest",
    "OffsetResetStrategy",
    "Request",
    "RequestStruct",
    "Response",
    "Schema",
    "String",
    "TaggedFields",
    "abort_fetches",
    "add_error",
    "client_of",
    "close_for_good",
    "coordinator_of",
    "fail_all_batches",
    "fetch_when_free",
    "for_code",
    "has_failed",
    "keep_member_id",
    "keep_passwords_out_of_logs",
    "positions_of",
    "send_heartbeat",
    "use_decoder",
]

# --- a consumer's parts ---


def client_of(inner: AIOKafkaConsumer) -> AIOKafkaClient:
    """The consumer's connections."""
    return inner._client


def coordinator_of(inner: AIOKafkaConsumer) -> Any:
    """The consumer's part in its group."""
    return inner._coordinator


def keep_member_id(inner: AIOKafkaConsumer, member: str) -> None:
    """Join under this id if aiokafka has dropped its own."""
    coordinator = inner._coordinator
    if not coordinator.member_id:
        coordinator.member_id = member


def has_failed(inner: AIOKafkaConsumer) -> bool:
    """Whether one of its tasks has ended: it has no public sign of health (aiokafka's issue 1154)."""
    return bool(inner._coordinator._coordination_task.done() or inner._fetcher.error_future.done())


def positions_of(inner: AIOKafkaConsumer, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    """Where the next fetch begins, for partitions with a position: aiokafka skips aborted transactions and markers silently."""
    assignment = inner._subscription.subscription.assignment
    states = {place: assignment.state_value(place) for place in places} if assignment is not None else {}
    return {place: state.position for place, state in states.items() if state is not None and state.has_valid_position}


async def send_heartbeat(coordinator: Any) -> bool:
    """Send a heartbeat now; returns whether the group is rebalancing. The next heartbeat meets and reports an error."""
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        await coordinator._do_heartbeat()
    return bool(coordinator._rejoin_needed_fut.done())


# --- fetching ---


class BusyBrokers(set[int]):
    """The brokers with a fetch in flight; calls back when one leaves."""

    def __init__(self, brokers: Iterable[int], on_free: Callable[[], None]) -> None:
        super().__init__(brokers)
        self._on_free = on_free

    def discard(self, element: object) -> None:
        """A fetch has ended."""
        super().discard(element)
        self._on_free()


def fetch_when_free(inner: AIOKafkaConsumer) -> None:
    """Wake the fetch loop whenever a broker has no fetch in flight any more.

    A broker stays in the set of busy ones for a turn of the event loop after its fetch has ended. If a seek or drained records wake
    the loop in that turn, it sees the fetch's end, finds the broker still busy, and nothing wakes it again: a member slept for
    `consumer_timeout_ms` after one join in fifty.

    Args:
        inner: started.
    """
    fetcher: Any = inner._fetcher
    fetcher._in_flight = BusyBrokers(fetcher._in_flight, lambda: fetcher._notify(fetcher._wait_consume_future))


def abort_fetches(client: AIOKafkaClient) -> None:
    """Close the connections on which a fetch waits for records; the next request opens them again.

    A broker answers a connection's requests in order, and only records or its timeout end a waiting fetch: the first fetch of newly
    assigned partitions would wait for the last fetch of the former ones.
    """
    for (_, group), connection in tuple(client._conns.items()):
        if group is ConnectionGroup.DEFAULT and connection._requests:
            connection.close()


class FetchedRecords(PartitionRecords):  # type: ignore[misc]
    """The records of one partition in one response; aiokafka's class handles transactions and positions."""

    @property
    def place(self) -> TopicPartition:
        """The partition."""
        return self._tp

    @property
    def batches(self) -> Any:
        """What `use_decoder`'s `batches` made of the response."""
        return self._records

    def unpack(self) -> Iterator[Any]:
        """Records by `convert`, without those of aborted transactions. A malformed batch may raise any exception."""
        unpacked: Iterator[Any] = self._unpack_records()
        return unpacked

    def convert(self, place: TopicPartition, record: Any) -> Any:
        """What the consumer's caller gets for a record."""
        raise NotImplementedError

    def __init_subclass__(cls) -> None:
        cls._consumer_record = cls.convert  # called directly, because it runs for every record


def use_decoder(inner: AIOKafkaConsumer, batches: Callable[[bytes], Any], records: type[FetchedRecords]) -> None:
    """Decode fetched bytes by `batches` (for aiokafka's `MemoryRecords`) and `records` (for its `PartitionRecords`).

    Args:
        inner: started.
    """
    fetcher: Any = inner._fetcher
    process = type(fetcher)._proc_fetch_request
    names = {"MemoryRecords": batches, "PartitionRecords": records}
    missing = names.keys() - set(process.__code__.co_names)
    assert not missing, f"this version of aiokafka decodes fetches differently: no {missing}"
    replaced = types.FunctionType(process.__code__, {**process.__globals__, **names}, process.__name__)
    fetcher._proc_fetch_request = types.MethodType(replaced, fetcher)


# --- closing ---


async def close_for_good(client: AIOKafkaClient) -> None:
    """Close the connections that a client opened while it was being closed, and let it open no more.

    aiokafka's `close` closes the connections that it knows. One that was being opened appears afterwards, and a task that outlives
    `stop`, such as a look-up of offsets in a rebalance, opens another; nothing would close them.
    """

    async def refuse(*_: Any, **__: Any) -> None:
        return None  # its callers take None for a broker that cannot be reached

    client._get_conn = refuse
    async with client._get_conn_lock:  # after those that are being opened
        for connection in client._conns.values():
            if connection.connected():
                connection.close()


async def fail_all_batches(producer: AIOKafkaProducer, error: Exception) -> None:
    """Disconnect a producer that would retry its batches forever; everyone waiting for them gets this error."""
    producer._message_accumulator.fail_all(error)
    await producer._sender.close()


# --- errors and logs ---


def add_error(kind: type[errors.BrokerResponseError]) -> None:
    """Let aiokafka raise this class for its error number; it raises UnknownError for numbers that its table lacks."""
    errors.kafka_errors[kind.errno] = kind


@functools.cache
def keep_passwords_out_of_logs() -> None:
    """At DEBUG aiokafka logs every request; leave out those with the password."""
    logging.getLogger("aiokafka.conn").addFilter(_has_no_password)


def _has_no_password(record: logging.LogRecord) -> bool:
    arguments = record.args if isinstance(record.args, tuple) else ()
    return not any(type(argument).__name__.startswith("SaslAuthenticate") for argument in arguments)
