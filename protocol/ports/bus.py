"""The bus: a partitioned, durable log with consumer groups."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Protocol

from protocol.messages import InferRequest
from protocol.tensors import Buffer

Headers = Sequence[tuple[str, bytes | None]]
"""In their order; a name may occur twice, and a value may be null."""
Place = tuple[int, int]
"""Partition and offset of a record, within its topic."""
NOWHERE: Place = (-1, -1)
"""The place of no record."""


@dataclasses.dataclass(slots=True)
class OutRecord:
    """A record to publish.

    Attributes:
        request: the message itself, in place of `value` and `headers`, which whoever needs them makes (`codec.record_bytes`).
            Nobody changes it from now on.
        request_size: bytes that the request counts as.
    """

    value: bytes
    headers: Headers = ()
    key: bytes | None = None
    timestamp: float = 0.0
    request: InferRequest | None = None
    request_size: int = 0

    @property
    def size(self) -> int:
        """Bytes that the record counts as in limits."""
        return len(self.value) if self.request is None else self.request_size


@dataclasses.dataclass(slots=True)
class Record:
    """A record as it was fetched.

    Attributes:
        timestamp: seconds since the epoch.
        headers: as they were written; in a name that is not UTF-8, an invalid byte is read as `\\xff`.
        problem: why this record is damaged or incomplete; nearly always "". Such a record is not a request; one that covers
            a whole batch has the batch's last offset.
        request, request_size: as in `OutRecord`; only an `ImmediateBus` leaves a message as it is.
    """

    topic: str
    partition: int
    offset: int
    timestamp: float
    value: Buffer
    headers: Headers
    key: bytes | None = None
    problem: str = ""
    request: InferRequest | None = None
    request_size: int = 0

    @property
    def size(self) -> int:
        """Bytes that the record counts as in limits."""
        return len(self.value) if self.request is None else self.request_size


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """The acknowledged place of a group of records: they have `offset`, `offset + 1`, … of the partition."""

    topic: str
    partition: int
    offset: int
    timestamp: float


@dataclasses.dataclass(frozen=True, slots=True)
class Assigned:
    """One partition as it is assigned to a consumer.

    Attributes:
        committed: the offset to resume at; 0 or the log's start if nothing was committed yet.
        end: the log's end at assignment; records below it may have been delivered before.
        start: the log's start; above `committed` means records were deleted unread.
    """

    partition: int
    committed: int
    end: int
    start: int = 0


class Listener(Protocol):
    """Called back about ownership, on the event loop; must not block."""

    def assigned(self, epoch: int, partitions: Sequence[Assigned]) -> None:
        """From now on `fetch` returns records of these partitions.

        `epoch` grows by one with every rebalance that this consumer sees, and by more if nothing in flight may continue: the log of
        a partition may have been replaced.
        """

    def revoked(self, partitions: Collection[int]) -> None:
        """Another member may now get the records of these partitions; commits for them are refused or have no effect."""

    def arrived(self, take: Callable[[int], list[Record]]) -> None:
        """Records that carry messages arrived while `fetch` waits; only a consumer of an immediate bus calls this.

        Args:
            take: returns at most so many of them. What is not taken is left for `fetch`.
        """


class Consumer(Protocol):
    """One member of one group on one topic."""

    @property
    def member(self) -> str:
        """The member id that the group's coordinator assigned; "" before the first join."""

    async def fetch(self, max_records: int, timeout: float, partitions: Collection[int] | None = None) -> list[Record]:
        """At most `max_records`, in order within each partition; [] after `timeout` seconds without any, or if
        `Listener.arrived` left records meanwhile.

        Args:
            max_records: bound over all partitions.
            timeout: seconds.
            partitions: only from these; None means all owned ones. An empty collection returns nothing after `timeout`, but
                counts as polling: a full worker keeps its membership.
        """

    def backlog(self) -> int:
        """Records known from the last fetches (no I/O) to follow in the owned partitions."""

    def positions(self) -> Mapping[int, int]:
        """The offset of the next fetch per owned partition. Offsets below it that `fetch` has not returned are gaps, such as
        an aborted transaction's records or a marker."""

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit the next offset to read per partition.

        Raises:
            Unavailable: it may not have happened (rebalance, coordinator unreachable); commit again later, or drop it.
        """

    async def lag(self) -> int:
        """Records in the owned partitions at or after the committed offsets."""

    async def close(self) -> None:
        """Stop fetching; a static member stays in its group until its session times out or `Bus.evict` removes it."""


class ImmediateBus(Protocol):
    """A bus in this process, whose records need no bytes and no waiting."""

    def publish_now(self, topic: str, records: Sequence[OutRecord]) -> Published:
        """As `Bus.publish`, acknowledged on return. No consumer is called back before the caller has returned."""


class Bus(Protocol):
    """A partitioned, durable log."""

    @property
    def immediate(self) -> ImmediateBus | None:
        """This bus, if it is an immediate one."""

    async def open(self) -> None:
        """Connect, with retries and jitter.

        Raises:
            Unavailable: the broker, which the message names, did not answer in the configured time.
        """

    async def close(self) -> None:
        """Send what is buffered and disconnect."""

    async def ensure_topic(self, topic: str, partitions: int, *, compacted: bool = False) -> int:
        """Create the topic if it does not exist; returns its number of partitions."""

    async def raise_partitions(self, topic: str, partitions: int) -> int:
        """Give the topic at least so many partitions; returns how many it has then. Members of its groups get the new ones soon.

        Records that are in the log stay where they are. Readers of a new partition begin at its start.

        Raises:
            NotFound: there is no such topic.
            Unavailable: no broker answers, or it refuses.
        """

    async def partitions(self, topic: str) -> int:
        """How many partitions the topic has now; 0 if there is no such topic. Creates none.

        Raises:
            Unavailable: no broker answers.
        """

    async def publish(self, topic: str, records: Sequence[OutRecord], partition: int | None = None) -> Published:
        """Append all records to one partition, in order; returns once acknowledged (`acks=all`).

        With `partition=None` each call takes the next partition; the records of one call stay together.

        Raises:
            Unavailable: not acknowledged; the records may or may not be in the log.
            TooLarge: a record is over the limit.
            NotFound: there is no such topic.
        """

    async def subscribe(self, topic: str, group: str, member: str, listener: Listener) -> Consumer:
        """Join the group as the static member `member` (`group.instance.id`); partitions without a commit begin at the start."""

    def follow(self, topic: str, start: Mapping[int, int] | None = None) -> AsyncIterator[Sequence[Record]]:
        """Every record of a topic from its start, then new ones as they arrive, without end, in order within each partition.
        Unreadable records are left out. Reads no further ahead than a fetch: a caller that waits holds back the reading.

        Args:
            topic: there must be one.
            start: by partition, the first offset to read; other partitions are read from their start.

        Yields an empty list once, on reaching the end that the topic had when reading began.
        """

    async def read_record(self, topic: str, partition: int, offset: int) -> Record | None:
        """The record at this place, or None if the topic has none there (any more, or yet) or it cannot be read."""

    async def committed(self, topic: str, group: str) -> Mapping[int, int]:
        """The group's committed offsets by partition; partitions without a commit are left out.

        Raises:
            Unavailable: the group's coordinator does not answer.
        """

    async def extents(self, topics: Collection[str]) -> Mapping[str, Mapping[int, tuple[int, int]]]:
        """By topic and partition, the log's start and its end: the offset of the next record. Topics that do not exist are left
        out, as are partitions whose leader does not answer now. Creates none.

        Raises:
            Unavailable: no broker answers.
        """

    async def evict(self, group: str, members: Sequence[str]) -> None:
        """Send LeaveGroup for dead static members (`group.instance.id`), so that the others get their partitions at once."""

    async def healthy(self) -> bool:
        """Whether the broker answers now."""
