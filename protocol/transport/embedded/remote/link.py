"""One end of the socket between a process that takes calls and the process that has the log.

Invariant: what is sent in one turn of the event loop is one write. Nothing here bounds what waits to be written: the calls in
flight do, which the gateway's limits bound.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

import structlog

from protocol.errors import CodecError, described
from protocol.tensors import Buffer
from protocol.transport.embedded.remote.frames import Frame, FrameReader, encode
from protocol.transport.embedded.remote.values import plain

log = structlog.get_logger(__name__)


class Link(asyncio.BufferedProtocol):
    """One end.

    Args:
        on_frames: gets the frames that arrived together.
        on_lost: called once when the other end is gone, or has sent something that is no frame.
    """

    def __init__(self, on_frames: Callable[[list[Frame]], None], on_lost: Callable[[], None]) -> None:
        self._on_frames = on_frames
        self._on_lost = on_lost
        self._reader = FrameReader()
        self._outgoing: list[Buffer] = []
        self._transport: asyncio.Transport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self, end: socket.socket) -> None:
        """Use this end, which belongs to the link from now on."""
        end.setblocking(False)
        self._loop = asyncio.get_running_loop()
        await self._loop.create_connection(lambda: self, sock=end)

    @property
    def is_open(self) -> bool:
        """Whether the other end was there a moment ago."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, *parts: Any) -> None:
        """Send the parts of a message as one frame; nothing happens once the other end is gone."""
        binaries: list[Buffer] = []
        data = [plain(part, binaries) for part in parts]
        if not self._outgoing and self._loop is not None:
            self._loop.call_soon(self._flush)
        self._outgoing += encode(data, binaries)

    def close(self) -> None:
        """Close this end, once everything is sent."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if outgoing and self.is_open:
            assert self._transport is not None
            self._transport.writelines(outgoing)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, _: int) -> memoryview:
        """Called by the event loop."""
        return self._reader.room()

    def buffer_updated(self, count: int) -> None:
        """Called by the event loop."""
        try:
            if frames := self._reader.filled(count):
                self._on_frames(frames)
        except (CodecError, TypeError, ValueError) as error:
            log.error(
                "a process of this server sent what is no message; its connection ends",
                error=described(error),
            )
            assert self._transport is not None
            self._transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        """Called by the event loop."""
        self._on_lost()
