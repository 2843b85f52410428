"""Bounds the answers that callers have not read, over all connections. Pure.

Invariant: the bytes of a connection are returned once, when they were read or the connection has ended.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from gateway.admission.budget import Budget, Share

Key = TypeVar("Key")


class Unread(Generic[Key]):
    """Bytes in write buffers by connection, in the order in which the connections stopped reading."""

    __slots__ = ("_budget", "_shares")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._shares: dict[Key, Share] = {}

    def __len__(self) -> int:
        """Number of connections with unread bytes."""
        return len(self._shares)

    def hold(self, connection: Key, size: int) -> list[Key]:
        """Count the unread bytes of a connection; returns the connections to abort because there is no room.

        Those that have not read for longest come first, the connection itself last.
        """
        share = self._shares.setdefault(connection, Share(self._budget))
        ended: list[Key] = []
        while not share.hold(size):
            longest = connection if size > self._budget.limit else next(iter(self._shares))
            self.drop(longest)
            ended.append(longest)
            if longest is connection:
                break
        return ended

    def drop(self, connection: Key) -> None:
        """Forget a connection that has read everything or has ended."""
        share = self._shares.pop(connection, None)
        if share is not None:
            share.free()
