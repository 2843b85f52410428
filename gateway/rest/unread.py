"""Answers that their callers do not read, bounded together. Pure.

Invariant: what is held for a connection is given back once, when it has been read or the connection has ended.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from gateway.admission.budget import Budget, Share

Connection = TypeVar("Connection")


class Unread(Generic[Connection]):
    """Bytes in write buffers, by connection, in the order in which the connections began not to read."""

    __slots__ = ("_budget", "_shares")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._shares: dict[Connection, Share] = {}

    def __len__(self) -> int:
        """Connections with something unread."""
        return len(self._shares)

    def hold(self, connection: Connection, size: int) -> list[Connection]:
        """Count what a connection has not read; returns the connections to end because there is no room.

        Those that have not read for longest end first. The connection itself is the last of them.
        """
        share = self._shares.setdefault(connection, Share(self._budget))
        ended: list[Connection] = []
        while not share.hold(size):
            longest = connection if size > self._budget.limit else next(iter(self._shares))
            self.drop(longest)
            ended.append(longest)
            if longest is connection:
                break
        return ended

    def drop(self, connection: Connection) -> None:
        """The connection has read everything, or has ended."""
        share = self._shares.pop(connection, None)
        if share is not None:
            share.free()
