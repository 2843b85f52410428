"""Receives the rest of a large body straight into its memory: neither the event loop nor the parser copies it.

While it does, it is the transport's protocol; the connection is before and after. Everything but bytes goes to the connection.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

RECEIVE_FROM: Final = 64 * 1024
"""Missing bytes from which this pays: a read copies them twice otherwise."""
SCRATCH: Final = 64 * 1024
"""Bytes that are discarded at once."""


class Receiving(Protocol):
    """A connection that receives a body."""

    def room(self) -> memoryview:
        """Where the next bytes of the body go; no larger than what is missing of it."""

    def received(self, size: int) -> None:
        """So many bytes of the body were received."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""

    def eof_received(self) -> bool | None:
        """The client sends no more."""

    def pause_writing(self) -> None:
        """The client does not read."""

    def resume_writing(self) -> None:
        """The client reads again."""


class BodyReceiver(asyncio.BufferedProtocol):
    """The protocol of a connection while it receives a large body."""

    def __init__(self, connection: Receiving) -> None:
        self._connection = connection
        self.connection_lost = connection.connection_lost  # type: ignore[method-assign]
        self.eof_received = connection.eof_received  # type: ignore[method-assign]
        self.pause_writing = connection.pause_writing  # type: ignore[method-assign]
        self.resume_writing = connection.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to put the next bytes."""
        return self._connection.room()

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes were received."""
        self._connection.received(nbytes)
