"""The worker's sign of life, twice a second: who it is and how each model version stands."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final, Protocol

from protocol.errors import Unavailable
from protocol.messages import Heartbeat
from protocol.ports import Directory
from protocol.presence import encode_heartbeat
from workers.context import Context
from workers.framing import frame
from workers.models import Models

MAX_PIPE: Final = 1024 * 1024
"""Bytes that may wait in the pipe; with more the supervisor is stuck, and the newest beat is dropped."""


class SupervisorGone(Unavailable):
    """Nobody reads the pipe any more: nobody would start this worker again, or speak for it."""


class Outlet(Protocol):
    """Where heartbeats go."""

    async def beat(self, heartbeat: Heartbeat) -> None:
        """Send one. Raises `Unavailable` when it cannot be sent now."""


class Pulse:
    """Makes heartbeats.

    Attributes:
        draining: what they say of that.
    """

    def __init__(self, context: Context, models: Models) -> None:
        self.draining = False
        self._context = context
        self._models = models
        self._host = socket.gethostname()

    async def read(self) -> Heartbeat:
        """How the worker stands now."""
        context = self._context
        return Heartbeat(
            context.worker,
            context.incarnation,
            self._host,
            os.getpid(),
            context.clock(),
            tuple(await self._models.loads()),
            {serving.topic: serving.intake.member for serving in self._models.serving()},
            self.draining,
        )


class DirectoryOutlet:
    """Straight to the directory: for a worker without a supervisor."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def beat(self, heartbeat: Heartbeat) -> None:
        """See `Outlet.beat`."""
        await self._directory.beat(heartbeat)


class PipeOutlet:
    """To the supervisor, which relays the newest one even while this process is too busy to send any."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._transport: asyncio.WriteTransport | None = None

    def close(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.close()

    async def beat(self, heartbeat: Heartbeat) -> None:
        """See `Outlet.beat`."""
        if self._transport is None:
            loop = asyncio.get_running_loop()
            pipe = os.fdopen(self._fd, "wb", buffering=0)
            self._transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, pipe)
        if self._transport.is_closing():
            raise SupervisorGone("the supervisor of this worker has ended")
        if self._transport.get_write_buffer_size() < MAX_PIPE:
            self._transport.write(frame(encode_heartbeat(heartbeat)))
