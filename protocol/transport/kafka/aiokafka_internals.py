"""What is needed of aiokafka's inside: every name of it that is not public is used here, and nowhere else.

They are those of the versions that pyproject.toml allows; a later one is tried with `tests/transport` first.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import KafkaError

from protocol.ports import Record
from protocol.transport.kafka.batches import Batches, InflateBudget
from protocol.transport.kafka.record import RawRecord

log = logging.getLogger(__name__)

MAX_DRAINED: Final = 4096
"""Records that one call takes from aiokafka: a compressed megabyte can hold millions. The rest waits there, not decoded."""


# --- a consumer's parts ---


def client_of(inner: AIOKafkaConsumer) -> AIOKafkaClient:
    """Its connections."""
    return inner._client


def coordinator_of(inner: AIOKafkaConsumer) -> Any:
    """Its part in the group."""
    return inner._coordinator


def keep_member_id(inner: AIOKafkaConsumer, member: str) -> None:
    """Join under this id, where aiokafka has forgotten its own."""
    coordinator = inner._coordinator
    if not coordinator.member_id:
        coordinator.member_id = member


def has_ended(inner: AIOKafkaConsumer) -> bool:
    """Whether one of its tasks has: it has no public sign of health (its issue 1154)."""
    return bool(inner._coordinator._coordination_task.done() or inner._fetcher.error_future.done())


def positions_of(inner: AIOKafkaConsumer, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    """Where the next fetch begins, of those that have a position: it passes aborted transactions and markers without telling."""
    assignment = inner._subscription.subscription.assignment
    states = {place: assignment.state_value(place) for place in places} if assignment is not None else {}
    return {place: state.position for place, state in states.items() if state is not None and state.has_valid_position}


async def ask_coordinator(coordinator: Any) -> bool:
    """Send a heartbeat now; whether the group is being rebalanced. An error is left to the next heartbeat, which meets it, too."""
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        await coordinator._do_heartbeat()
    return bool(coordinator._rejoin_needed_fut.done())


# --- fetching at once ---


class Busy(set[int]):
    """The brokers that a fetch is under way to; tells when one leaves."""

    def __init__(self, brokers: Iterable[int], on_free: Callable[[], None]) -> None:
        super().__init__(brokers)
        self._on_free = on_free

    def discard(self, element: object) -> None:
        """A fetch has ended."""
        super().discard(element)
        self._on_free()


def fetch_when_free(inner: AIOKafkaConsumer) -> None:
    """Have the fetch loop look what it can fetch whenever a broker is no longer busy.

    A broker stays on the list of the busy ones for a turn of the event loop after its fetch has ended. Where a seek, or records
    that were drained, wake the loop in that turn, it takes note of the fetch's end, finds the broker still busy, and nothing wakes
    it again: a member slept for `consumer_timeout_ms`, after one join in fifty.

    Args:
        inner: started.
    """
    fetcher: Any = inner._fetcher
    fetcher._in_flight = Busy(fetcher._in_flight, lambda: fetcher._notify(fetcher._wait_consume_future))


def give_up_fetches(client: AIOKafkaClient) -> None:
    """Close the connections on which a fetch waits for records; the next request opens them again.

    A broker answers a connection's requests in order, and nothing ends a fetch there but records or its time: the first fetch of
    partitions that a member has just been given would wait behind the last one of those that it had.
    """
    for (_, group), connection in tuple(client._conns.items()):
        if group is ConnectionGroup.DEFAULT and connection._requests:
            connection.close()


# --- reading what strangers wrote ---


class Decoded(PartitionRecords):  # type: ignore[misc]
    """The records of one partition in one answer, as the port has them. aiokafka's class sees to transactions and positions."""

    def __init__(self, tp: TopicPartition, records: Batches, *more: Any) -> None:
        super().__init__(tp, records, *more)
        records.draining = True
        self._guarded = self._without_exceptions()

    def __iter__(self) -> Iterator[Record]:
        return self._guarded

    def __next__(self) -> Record:
        return next(self._guarded)

    def _without_exceptions(self) -> Iterator[Record]:
        """One broken record instead of a batch that nobody foresaw: its exception would cost other partitions' records."""
        while True:
            try:
                yield from self._unpack_records()
                return
            except Exception as exc:
                batch, error = self._records.current, exc
            if batch is None:
                return
            log.error("a batch of %s cannot be read", self._tp, exc_info=error)
            self.next_fetch_offset = batch.next_offset
            problem = f"offsets {batch.base_offset} to {batch.next_offset - 1} cannot be read: {error!r}"
            yield Record(self._tp.topic, self._tp.partition, batch.next_offset - 1, 0.0, b"", (), None, problem)

    def _consumer_record(self, tp: TopicPartition, record: Any) -> Record:
        return as_record(tp.topic, tp.partition, record)


def as_record(topic: str, partition: int, record: Any) -> Record:
    """A record of aiokafka's, or a `RawRecord`, in the port's form. A null value of a record becomes an empty one."""
    return Record(
        topic, partition, record.offset, (record.timestamp or 0) / 1000, record.value or b"", record.headers, record.key,
        record.problem if type(record) is RawRecord else "",
    )  # fmt: skip


def read_strangers(inner: AIOKafkaConsumer, budget: InflateBudget) -> None:
    """Have a consumer decode what it fetches by `Batches`; it then gives `ports.Record`s.

    Its own decoding raises where a header name is not UTF-8 or a batch is broken, with what it had read of other partitions, and
    inflates without a limit.

    Args:
        inner: started.
        budget: what it may inflate; the reader fills it up.
    """
    fetcher: Any = inner._fetcher
    process = type(fetcher)._proc_fetch_request
    names = {"MemoryRecords": functools.partial(Batches, budget=budget), "PartitionRecords": Decoded}
    missing = names.keys() - set(process.__code__.co_names)
    assert not missing, f"this version of aiokafka decodes fetches in another way: no {missing}"
    seeing = types.FunctionType(process.__code__, {**process.__globals__, **names}, process.__name__)
    fetcher._proc_fetch_request = types.MethodType(seeing, fetcher)


# --- ends ---


async def shut(client: AIOKafkaClient) -> None:
    """Close what a client opened while it was being closed, and have it open nothing any more.

    aiokafka's `close` closes the connections that it knows. One that was being opened meanwhile comes afterwards, and whatever
    outlives `stop`, as a look-up of offsets does in a rebalance, opens another; nobody would close them.
    """

    async def refuse(*_: Any, **__: Any) -> None:
        return None  # which its callers take for a broker that cannot be reached

    client._get_conn = refuse
    async with client._get_conn_lock:  # behind those that are being opened
        for connection in client._conns.values():
            if connection.connected():
                connection.close()


async def give_up_sending(producer: AIOKafkaProducer, error: Exception) -> None:
    """Disconnect a producer that would try for ever to deliver what it holds; whoever waits for it gets this error."""
    producer._message_accumulator.fail_all(error)
    await producer._sender.close()
    await producer.client.close()
