"""The bus: a partitioned, durable log with consumer groups."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Protocol

from protocol.tensors import Buffer

Headers = Sequence[tuple[str, bytes | None]]
"""In their order; a name may come twice, and a value may be null."""
Place = tuple[int, int]
"""Partition and offset of a record, within its topic."""
NOWHERE: Place = (-1, -1)
"""The place of no record."""


@dataclasses.dataclass(slots=True)
class OutRecord:
    """A record to publish."""

    value: bytes
    headers: Headers = ()
    key: bytes | None = None
    timestamp: float = 0.0


@dataclasses.dataclass(slots=True)
class Record:
    """A record as it was fetched.

    Attributes:
        timestamp: seconds.
        headers: as they were written; in a name that is not UTF-8 the other bytes are given as `\\xff`.
        problem: why this is not what was written, or not all of it; "" nearly always. It is no request then, and one that stands
            for the records of a whole batch has their last offset.
    """

    topic: str
    partition: int
    offset: int
    timestamp: float
    value: Buffer
    headers: Headers
    key: bytes | None = None
    problem: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """Where a batch of records was acknowledged: they hold `offset`, `offset + 1`, … of the partition."""

    topic: str
    partition: int
    offset: int
    timestamp: float


@dataclasses.dataclass(frozen=True, slots=True)
class Assigned:
    """One partition as it is given to a consumer.

    Attributes:
        committed: where to go on; 0 or the log's start where nothing was committed yet.
        end: the log's end at assignment; records below it may have been delivered before.
        start: the log's start; above `committed` means records were deleted unread.
    """

    partition: int
    committed: int
    end: int
    start: int = 0


class Listener(Protocol):
    """Told of ownership; called on the event loop, must not block."""

    def assigned(self, epoch: int, partitions: Sequence[Assigned]) -> None:
        """From now on records of these partitions come.

        `epoch` grows by one with every rebalance seen by this consumer, and by more where what was in flight must not go on: the
        log of a partition may be another one.
        """

    def revoked(self, partitions: Collection[int]) -> None:
        """Records of these may now also go to another member; commits for them are refused or useless."""


class Consumer(Protocol):
    """One member of one group on one topic."""

    @property
    def member(self) -> str:
        """The member id that the group's coordinator gave; "" before the first join."""

    async def fetch(self, max_records: int, timeout: float, partitions: Collection[int] | None = None) -> list[Record]:
        """At most `max_records`, in order within each partition; [] after `timeout` seconds without any.

        Args:
            max_records: bound over all partitions.
            timeout: seconds.
            partitions: only from these; None means from all owned. An empty collection returns nothing after `timeout`, yet
                counts as polling: a full worker keeps its membership.
        """

    def backlog(self) -> int:
        """Records known (from the last fetches, no I/O) to be in the owned partitions behind what `fetch` returned."""

    def positions(self) -> Mapping[int, int]:
        """Per owned partition the offset at which the next fetch begins: whatever `fetch` has not returned below it is a gap, such
        as an aborted transaction's records or a marker."""

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit the next offset to read per partition.

        Raises:
            Unavailable: it may not have happened (rebalance, coordinator away); commit again later or drop.
        """

    async def lag(self) -> int:
        """Records in the owned partitions at or behind the committed offsets."""

    async def close(self) -> None:
        """Stop fetching; a static member stays in its group until its session times out or `Bus.evict` removes it."""


class Bus(Protocol):
    """A partitioned, durable log."""

    async def open(self) -> None:
        """Connect, with retries and jitter.

        Raises:
            Unavailable: the broker did not answer in the configured time; names it.
        """

    async def close(self) -> None:
        """Send what is buffered and disconnect."""

    async def ensure_topic(self, topic: str, partitions: int, *, compacted: bool = False) -> int:
        """Create the topic where it does not exist; returns its number of partitions."""

    async def publish(self, topic: str, records: Sequence[OutRecord], partition: int | None = None) -> Published:
        """Append all records to one partition, in order; returns once acknowledged (`acks=all`).

        With `partition=None` every call takes the next partition; a group of records stays together.

        Raises:
            Unavailable: not acknowledged; the records may or may not be in the log.
            TooLarge: a record is over the limit.
            NotFound: there is no such topic.
        """

    async def subscribe(self, topic: str, group: str, member: str, listener: Listener) -> Consumer:
        """Join the group as the static member `member` (`group.instance.id`); where nothing is committed, from the log's start."""

    def follow(self, topic: str) -> AsyncIterator[Sequence[Record]]:
        """Every record of a (small, compacted) topic from its start, then the new ones as they come, for ever. Those that cannot
        be read are left out.

        Yields an empty list once when the end that was there at the start has been reached.
        """

    async def read_record(self, topic: str, partition: int, offset: int) -> Record | None:
        """That one record, or None where the topic no longer (or not yet) has it, or it cannot be read."""

    async def committed(self, topic: str, group: str) -> Mapping[int, int]:
        """Where the group goes on, by partition; without those in which it has committed nothing.

        Raises:
            Unavailable: the group's coordinator cannot be asked.
        """

    async def evict(self, group: str, members: Sequence[str]) -> None:
        """Send LeaveGroup for dead static members (`group.instance.id`), so that the others own their partitions at once."""

    async def healthy(self) -> bool:
        """Whether the broker answers now."""
