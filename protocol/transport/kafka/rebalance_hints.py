"""How the members of a group hear at once that it is being rebalanced, and not with their next heartbeat."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from protocol.transport.kafka.aiokafka_internals import send_heartbeat


class RebalanceHints(Protocol):
    """Carries hints between the processes of a fleet. One that gets lost costs at most a heartbeat interval.

    Kafka tells a member of a rebalance in the answer to its heartbeat. Until the last one has heard of it, those that have given up
    their partitions wait, and so does whatever comes for them: half a second, when a worker left, was killed, or joined two others.
    """

    async def publish_rebalance(self, group: str) -> None:
        """Have the members of the group ask its coordinator now.

        Raises:
            Unavailable: nobody was told.
        """

    async def listen_rebalances(self, on_rebalance: Callable[[str], None]) -> None:
        """Call back with the group of every notice, for as long as the carrier is open.

        Raises:
            Unavailable: not yet; it goes on trying.
        """


class RebalanceProbe:
    """One member's: asks its coordinator when told to, and knows whether it has heard of a rebalance from nobody before.

    Args:
        on_first: called with every rebalance that nobody told of.
    """

    def __init__(self, on_first: Callable[[], None]) -> None:
        self._on_first = on_first
        self._was_hinted = False
        self._asking: asyncio.Task[None] | None = None

    def ask(self, coordinator: Any) -> None:
        """Have aiokafka's group coordinator send a heartbeat now; one at a time."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask(coordinator))

    async def _ask(self, coordinator: Any) -> None:
        self._was_hinted = True
        self._was_hinted = await send_heartbeat(coordinator)

    def rebalancing(self) -> None:
        """The member knows of a rebalance."""
        if not self._was_hinted:
            self._on_first()

    def stable(self) -> None:
        """The group is stable again."""
        self._was_hinted = False

    def close(self) -> None:
        """Leave the coordinator alone: it is being closed."""
        if self._asking is not None:
            self._asking.cancel()
