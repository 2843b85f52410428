"""The worker's sign of life, twice a second: who it is and how each model version stands."""

from __future__ import annotations

import asyncio
import collections
import os
import socket
from typing import Final, Protocol

from protocol.errors import Unavailable
from protocol.heartbeat_codec import encode_heartbeat
from protocol.messages import Heartbeat
from protocol.ports import Directory
from workers.context import Context
from workers.lifecycle.models import Models
from workers.system.framing import frame

MAX_PIPE: Final = 1024 * 1024
"""Bytes that may wait in the pipe; with more the supervisor is stuck, and the newest beat is dropped."""


MAX_ASKS: Final = 64
"""Asks that a heartbeat names: more gateways than that do not ask within a beat's time."""
MAX_ASK: Final = 64
"""Characters of one."""


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
        asked: the newest asks for one; None until they are listened to.
    """

    def __init__(self, context: Context, models: Models) -> None:
        self.draining = False
        self.asked: collections.deque[str] | None = None
        self._context = context
        self._models = models
        self._host = socket.gethostname()

    async def read(self) -> Heartbeat:
        """How the worker stands now."""
        context, asked = self._context, None if self.asked is None else tuple(self.asked)  # before anything is counted
        return Heartbeat(
            context.worker,
            context.incarnation,
            self._host,
            os.getpid(),
            context.clock(),
            tuple(await self._models.loads()),
            {serving.topic: serving.intake.member for serving in self._models.serving()},
            self.draining,
            asked,
        )


class Asks:
    """Heartbeats out of turn, for whoever asks how the worker stands now.

    They go straight to the directory: a supervisor relays twice a second.

    Args:
        pulse: makes them.
        outlet: gets them, too, so that the supervisor does not relay an older one for long.
        directory: where they are asked for and wanted.
    """

    def __init__(self, pulse: Pulse, outlet: Outlet, directory: Directory) -> None:
        self._pulse = pulse
        self._outlet = outlet
        self._directory = directory
        self._heard = asyncio.Event()

    async def listen(self) -> None:
        """Hear asks from now on. Raises `Unavailable` when the store cannot be reached."""
        await self._directory.listen_asks(self._on_ask)
        self._pulse.asked = collections.deque(maxlen=MAX_ASKS)

    async def answer(self) -> None:
        """Beat once, when somebody asks; what is asked meanwhile is answered by the next call."""
        await self._heard.wait()
        self._heard.clear()
        beat = await self._pulse.read()
        await self._outlet.beat(beat)
        if not isinstance(self._outlet, DirectoryOutlet):
            await self._directory.beat(beat)

    def _on_ask(self, ask: str) -> None:
        if self._pulse.asked is not None:
            self._pulse.asked.append(ask[:MAX_ASK])
            self._heard.set()


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
