"""The directory: which workers serve now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from protocol.messages import Heartbeat


class Directory(Protocol):
    """The heartbeats of all workers. It may lose all of them at any moment."""

    async def beat(self, heartbeat: Heartbeat) -> None:
        """Store a worker's heartbeat. Raises `Unavailable` if the store cannot be reached."""

    async def workers(self) -> list[Heartbeat]:
        """The last heartbeat of every worker, silent ones included."""

    async def forget(self, worker: str) -> None:
        """Remove a worker that has left."""

    async def ask(self, ask: str) -> None:
        """Request an immediate heartbeat from every listening worker; that heartbeat names the ask (`Heartbeat.asked`)."""

    async def hint_waiting(self, topic: str) -> None:
        """Say that a request was accepted on a topic that no live worker serves. Listeners may miss it."""

    async def listen_waiting(self, on_hint: Callable[[str], None]) -> None:
        """Call back with the topic of every such hint until `close`. Returns once subscribed."""

    async def listen_asks(self, on_ask: Callable[[str], None]) -> None:
        """Call back with every ask until `close`. Returns once subscribed."""
