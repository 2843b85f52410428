"""The directory: which workers serve now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from protocol.messages import Heartbeat


class Directory(Protocol):
    """Who serves now."""

    async def beat(self, heartbeat: Heartbeat) -> None:
        """Say that a worker lives. Raises `Unavailable` when the store cannot be reached."""

    async def workers(self) -> list[Heartbeat]:
        """The last sign of life of every worker, also of those that have fallen silent."""

    async def forget(self, worker: str) -> None:
        """Remove a worker that has gone."""

    async def ask(self, ask: str) -> None:
        """Have every worker that listens beat at once: it names this ask in that heartbeat (`Heartbeat.asked`)."""

    async def listen_asks(self, on_ask: Callable[[str], None]) -> None:
        """Call back with every ask until `close`. Returns once subscribed."""
