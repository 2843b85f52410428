"""Which records of a consumer's partitions are done, and how far each partition's offset may be committed. Pure.

Invariants: the position to commit is the lowest offset that is not done, and it never goes back while a partition is owned. Records
are added in the log's order without exception; offsets that were never added (compacted away, or a transaction's markers) count as
done once a higher one is added. An acknowledgement counts only for the assignment under which its record was added.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, TypeVar

P = TypeVar("P", bound=Hashable)


class _Table:
    """The in-flight table of one partition, from its assignment to its revocation.

    Attributes:
        token: names this table in acknowledgements; never reused.
        epoch: of the last assignment.
        owned: false from revocation on.
        end: every offset below was added, or is a gap.
        committed: the position that the broker has.
        open: offsets in flight, ascending.
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
    """Turns out-of-order completion into contiguous commits, for the partitions of one consumer.

    `P` names a partition: its number, or topic and number. An epoch is the consumer group's generation.
    """

    __slots__ = ("_moved", "_tables", "_tokens")

    def __init__(self) -> None:
        self._tables: dict[P, _Table] = {}
        self._moved: set[P] = set()
        self._tokens = 0

    def assign(self, partition: P, epoch: int, committed: int) -> Sequence[int]:
        """Own the partition from now on, reading from `committed`.

        If it was owned in the generation just before, no other worker had it in between: records in flight stay in flight, and
        their acknowledgements count. There are two exceptions. If the group's committed offset has passed them, another worker had
        the partition after all. If the epoch did not grow, the log itself may be a new one.

        Returns:
            The offsets that stay in flight, ascending; they will be fetched again, and `add` refuses them.
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
        """Stop owning the partition: nothing is added or committed; acknowledgements are kept in case it comes back.

        Commit `commits()` before, while the group still accepts it.
        """
        table = self._tables.get(partition)
        if table is not None:
            table.owned = False

    def add(self, partition: P, offset: int) -> int | None:
        """Put a fetched record in flight.

        Returns:
            The token for `done`; None if the record must not run: it is in flight or done, or the partition is not owned (then
            it is delivered again, here or elsewhere).
        """
        table = self._tables.get(partition)
        if table is None or offset < table.end or not table.owned:
            return None
        table.open[offset] = None
        table.end = offset + 1
        return table.token

    def done(self, partition: P, offset: int, token: int) -> None:
        """The record's answer is in the store. Ignored when its assignment is over, and when repeated."""
        table = self._tables.get(partition)
        if table is not None and table.token == token and offset in table.open:
            del table.open[offset]
            self._moved.add(partition)

    def advance(self, partition: P, position: int) -> bool:
        """The consumer's next fetch starts at `position`: offsets below that were not added are a gap.

        For a gap at the end of a log (a transaction's marker), which no higher record closes.

        Returns:
            Whether there was a gap.
        """
        table = self._tables.get(partition)
        if table is None or not table.owned or position <= table.end:
            return False
        table.end = position
        self._moved.add(partition)
        return True

    def deleted(self, partition: P, start: int) -> tuple[int, int] | None:
        """The log begins at `start`: records below that were never added are lost. The loss is in flight, as one record at its
        first offset, until `done` says that it was reported: after a crash before that the next owner finds it, too.

        Returns:
            That offset and its token; None if nothing was lost.
        """
        table = self._tables.get(partition)
        if table is None or table.end >= start:
            return None
        first, table.end = table.end, start
        table.open[first] = None
        return first, table.token

    def commits(self) -> dict[P, int]:
        """The next offset to read per owned partition, if it is above the committed one."""
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
        """The next offset to read of every owned partition, committed or not: brokers expire offsets."""
        return {partition: table.position() for partition, table in self._tables.items() if table.owned}

    def committed(self, positions: Mapping[P, int]) -> None:
        """The broker accepted these positions, a result of `commits` or `positions`."""
        for partition, position in positions.items():
            table = self._tables.get(partition)
            if table is not None and position > table.committed:
                table.committed = position

    def lowest_incomplete(self, partition: P) -> int | None:
        """The lowest offset that is not done, or the next one if all are; None for an unknown partition."""
        table = self._tables.get(partition)
        return None if table is None else table.position()

    @property
    def in_flight(self) -> int:
        """Records that are not done, including those of revoked partitions that may come back."""
        return sum(len(table.open) for table in self._tables.values())
