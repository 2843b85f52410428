"""Tells the router which calls wait for their answers: their rows count for a partition until they leave.

Invariant: the rows of a call count for at most one partition, and no longer once it has left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gateway.calls.pending import Call
from gateway.routing.router import Router


class RoutedCalls:
    """The calls that a router counts.

    Args:
        router: chooses partitions.
        clock: the fleet's.
    """

    def __init__(self, router: Router, clock: Callable[[], float]) -> None:
        self._router = router
        self._clock = clock

    def choose(self, topic: str, rows: int, largest: int) -> int | None:
        """See `Router.choose`."""
        return self._router.choose(topic, rows, largest, self._clock())

    def count(self, topic: str, partition: int, calls: Iterable[Call | None]) -> None:
        """Count calls whose records are in the partition, or are about to be; a call that has left is not counted."""
        rows = 0
        for call in calls:
            if call is not None and not call.left:
                if call.routed >= 0:
                    self.leave(call)
                call.routed = partition
                rows += call.rows
        if rows:
            self._router.sent(topic, partition, rows)

    def leave(self, call: Call) -> None:
        """Count a call out; does nothing if it is not counted."""
        if call.routed >= 0:
            self._router.left(call.topic, call.routed, call.rows)
            call.routed = -1
