"""Which records of a consumer's partitions are done, and how far that lets each partition's offset be committed. Pure.

Invariants: the position to commit is the lowest offset that is not done, never above it, and it never goes back while a
partition is owned. Records are added in the log's order, each one; offsets that were never added (compacted away, or a
transaction's markers) count as done once a higher one is there. An acknowledgement counts for the assignment under which its
record was added, and for no other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, TypeVar

P = TypeVar("P", bound=Hashable)


class _Table:
    """The in-flight table of one partition, from one assignment to the revocation that ends it.

    Attributes:
        token: names this table in acknowledgements; never used again.
        epoch: of the last assignment.
        owned: false from revocation on.
        end: everything below was added, or is a gap.
        committed: the broker has this position.
        open: the offsets that are not done, ascending.
    """

    __slots__ = ("committed", "end", "epoch", "open", "owned", "token")

    def __init__(self, token: int, epoch: int, committed: int) -> None:
        self.token = token
        self.epoch = epoch
        self.owned = True
        self.end = committed
        self.committed = committed
        self.open: OrderedDict[int, None] = OrderedDict()

    def position(self) -> int:
        return next(iter(self.open)) if self.open else self.end


class OffsetTracker(Generic[P]):
    """Out-of-order completion to contiguous commits, for the partitions of one consumer.

    `P` names a partition: its number, or topic and number. An epoch is the consumer group's generation.
    """

    __slots__ = ("_moved", "_tables", "_tokens")

    def __init__(self) -> None:
        self._tables: dict[P, _Table] = {}
        self._moved: set[P] = set()
        self._tokens = 0

    def assign(self, partition: P, epoch: int, committed: int) -> Sequence[int]:
        """Own the partition from now on, reading from `committed`.

        If it was owned in the generation just before, nobody else had it in between, so what is in flight goes on and its
        acknowledgements still count. Not if the group's committed offset has passed it meanwhile, which proves the contrary;
        nor if the epoch did not grow: the log itself may be a new one.

        Returns:
            The offsets in flight that go on, ascending; they will be fetched again, and `add` refuses them.
        """
        for gone in [p for p, table in self._tables.items() if not table.owned and table.epoch + 1 < epoch]:
            del self._tables[gone]
            self._moved.discard(gone)
        table = self._tables.get(partition)
        if table is not None and table.epoch + 1 == epoch and committed <= table.position():
            table.epoch = epoch
            table.owned = True
            table.committed = committed
            self._moved.add(partition)
            return tuple(table.open)
        self._tokens += 1
        self._tables[partition] = _Table(self._tokens, epoch, committed)
        self._moved.discard(partition)
        return ()

    def revoke(self, partition: P) -> None:
        """Own the partition no longer: nothing is added or committed, yet acknowledgements are noted, in case it comes back.

        Commit `commits()` before, while the group still takes it.
        """
        table = self._tables.get(partition)
        if table is not None:
            table.owned = False

    def add(self, partition: P, offset: int) -> int | None:
        """Put a fetched record in flight.

        Returns:
            The token for `done`; None if the record is not to be run: it is in flight or done already, or the partition is
            not owned (then it comes again, here or elsewhere).
        """
        table = self._tables.get(partition)
        if table is None or offset < table.end or not table.owned:
            return None
        table.open[offset] = None
        table.end = offset + 1
        return table.token

    def done(self, partition: P, offset: int, token: int) -> None:
        """The record's answer is stored. Ignored when its assignment is over, and when repeated."""
        table = self._tables.get(partition)
        if table is not None and table.token == token and offset in table.open:
            del table.open[offset]
            self._moved.add(partition)

    def advance(self, partition: P, position: int) -> bool:
        """The consumer's next fetch starts at `position`: what was not added below it is a gap.

        For logs that end in a gap (a transaction's marker), where no higher record closes it.

        Returns:
            Whether there was such a gap.
        """
        table = self._tables.get(partition)
        if table is None or not table.owned or position <= table.end:
            return False
        table.end = position
        self._moved.add(partition)
        return True

    def deleted(self, partition: P, start: int) -> tuple[int, int] | None:
        """The log begins at `start`: what lies below and was never added is gone. It is in flight, as one record at its first
        offset, until `done` says that somebody was told: whoever comes after a crash before that finds the loss, too.

        Returns:
            That offset and its token; None where nothing was lost.
        """
        table = self._tables.get(partition)
        if table is None or table.end >= start:
            return None
        first, table.end = table.end, start
        table.open[first] = None
        return first, table.token

    def duplicate(self, partition: P, offset: int) -> bool:
        """Whether the record is in flight or done under this assignment already."""
        table = self._tables.get(partition)
        return table is not None and offset < table.end

    def commits(self) -> dict[P, int]:
        """The next offset to read per owned partition, where it is above what `committed` was told."""
        positions: dict[P, int] = {}
        for partition in tuple(self._moved):
            table = self._tables[partition]
            position = table.position()
            if table.owned and position > table.committed:
                positions[partition] = position
            else:
                self._moved.discard(partition)
        return positions

    def positions(self) -> dict[P, int]:
        """The next offset to read of every owned partition, also where the broker has it: brokers forget offsets with time."""
        return {partition: table.position() for partition, table in self._tables.items() if table.owned}

    def committed(self, positions: Mapping[P, int]) -> None:
        """The broker took these positions, a result of `commits`."""
        for partition, position in positions.items():
            table = self._tables.get(partition)
            if table is not None and position > table.committed:
                table.committed = position

    def lowest_incomplete(self, partition: P) -> int | None:
        """The lowest offset that is not done, which is the next one to come when all are; None where nothing is known."""
        table = self._tables.get(partition)
        return None if table is None else table.position()

    @property
    def in_flight(self) -> int:
        """Records that are not done, those of revoked partitions included as long as they may come back."""
        return sum(len(table.open) for table in self._tables.values())
