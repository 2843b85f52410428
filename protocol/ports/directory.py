"""The directory: which workers serve now."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, Protocol

from protocol.messages import Heartbeat, Pulse

STATE_ONLY: Final = "+state"
"""End of an ask whose answers need no statistics."""


class Directory(Protocol):
    """The heartbeats of all workers. It may lose all of them at any moment."""

    async def beat(self, heartbeat: Heartbeat) -> None:
        """Store a worker's heartbeat. Raises `Unavailable` if the store cannot be reached.

        `workers` need not return its statistics and `seconds_per_row`, nor what it was asked.
        """

    async def workers(self) -> list[Heartbeat]:
        """The last heartbeat of every worker, silent ones included.

        Where nothing has changed at a worker but the time, `models` may be the same object as before.
        """

    async def pulses(self, workers: Collection[str] | None = None) -> list[Pulse]:
        """The last sign of life of these workers, or of all; of those that have one."""

    async def forget(self, worker: str) -> None:
        """Remove a worker that has left."""

    async def ask(self, ask: str) -> None:
        """Request an immediate answer from every listening worker; that answer names the ask (`Heartbeat.asked`)."""

    async def hint_waiting(self, topic: str) -> None:
        """Say that a request was accepted on a topic that no live worker serves. Listeners may miss it."""

    async def listen_waiting(self, on_hint: Callable[[str], None]) -> None:
        """Call back with the topic of every such hint until `close`. Returns once subscribed."""

    async def listen_asks(self, on_ask: Callable[[str], None]) -> None:
        """Call back with every ask until `close`. Returns once subscribed."""

    async def answer(self, heartbeat: Heartbeat) -> None:
        """Store a worker's heartbeat, and for some seconds all of it, as the answer to the asks that it names."""

    async def answers(self, workers: Collection[str]) -> list[Heartbeat]:
        """The last answers of these workers, of those that have given one lately; each whole, with its statistics."""
