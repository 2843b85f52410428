"""How a group's members learn of a rebalance at once, instead of at their next heartbeat."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from protocol.transport.kafka.aiokafka_internals import send_heartbeat


class RebalanceHints(Protocol):
    """Carries hints between the processes of a fleet. A lost hint costs at most a heartbeat interval.

    Kafka reports a rebalance to a member in the response to its heartbeat. Until the last member has learnt of it, the members that
    have given up their partitions wait, and so do the requests for them: half a second when a worker left, died, or joined.
    """

    async def publish_rebalance(self, group: str) -> None:
        """Make the members of the group ask its coordinator now.

        Raises:
            Unavailable: the hint was not sent.
        """

    async def listen_rebalances(self, on_rebalance: Callable[[str], None]) -> None:
        """Call back with the group of every hint, for as long as the carrier is open.

        Raises:
            Unavailable: not subscribed yet; the carrier keeps trying.
        """


class RebalanceProbe:
    """Asks one member's coordinator after a hint, and notices rebalances that no hint has announced.

    Args:
        on_first: called for every rebalance without a hint.
    """

    def __init__(self, on_first: Callable[[], None]) -> None:
        self._on_first = on_first
        self._was_hinted = False
        self._asking: asyncio.Task[None] | None = None

    def ask(self, coordinator: Any) -> None:
        """Make aiokafka's group coordinator send a heartbeat now; one at a time."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask(coordinator))

    async def _ask(self, coordinator: Any) -> None:
        self._was_hinted = True
        self._was_hinted = await send_heartbeat(coordinator)

    def rebalancing(self) -> None:
        """The member has learnt of a rebalance."""
        if not self._was_hinted:
            self._on_first()

    def stable(self) -> None:
        """The group is stable again."""
        self._was_hinted = False

    def close(self) -> None:
        """Ask no more: the coordinator is being closed."""
        if self._asking is not None:
            self._asking.cancel()
