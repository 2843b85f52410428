"""Tells the router which calls wait for their answers: their rows count for a partition until they leave.

Invariant: the rows of a call count for at most one partition, and no longer once it has left: `completion` counts them out.
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
        counted, rows = self._router.sent(topic, partition, 0), 0
        for call in calls:
            if call is not None and not call.left:
                if call.routed is not None:
                    call.routed.left(call.rows)
                call.routed = counted
                rows += call.rows
        if rows:
            self._router.sent(topic, partition, rows)
