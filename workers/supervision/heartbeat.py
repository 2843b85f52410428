"""The worker's heartbeat, twice a second: its identity and the load of each model version."""

from __future__ import annotations

import asyncio
import collections
import os
import socket
from typing import Final, Protocol

from protocol.errors import Unavailable
from protocol.heartbeat_codec import encode_heartbeat
from protocol.messages import Heartbeat
from protocol.ports import STATE_ONLY, Directory
from workers.context import Context
from workers.lifecycle.control import Control, with_control
from workers.lifecycle.models import Models
from workers.system.framing import frame

MAX_PIPE: Final = 1024 * 1024
"""Bytes that may wait in the pipe; beyond that the supervisor is stuck, and new beats are dropped."""
MAX_ASKS: Final = 64
"""Asks that a heartbeat names: more gateways do not ask within one interval."""
MAX_ASK: Final = 64
"""Characters of an ask."""


class SupervisorGone(Unavailable):
    """Nothing reads the pipe any more: this worker would not be restarted, nor its heartbeats relayed."""


class HeartbeatSender(Protocol):
    """Sends heartbeats towards the directory."""

    async def beat(self, heartbeat: Heartbeat) -> None:
        """Send one. Raises `Unavailable` when it cannot be sent now."""


class HeartbeatSource:
    """Makes heartbeats.

    Attributes:
        draining: the worker takes no new calls.
        restarts: how often the supervisor has started it again.
        asked: the newest asks for a heartbeat; None before `HeartbeatResponder.listen`.
    """

    def __init__(self, context: Context, models: Models, mode: str = "", control: Control | None = None) -> None:
        self.draining = False
        self.restarts = 0
        self.asked: collections.deque[str] | None = None
        self._context = context
        self._models = models
        self._mode = mode
        self._control = control
        self._host = socket.gethostname()

    async def current_heartbeat(self, *, statistics: bool = False) -> Heartbeat:
        """The worker's state now.

        Args:
            statistics: with those of each model.
        """
        context, asked = self._context, None if self.asked is None else tuple(self.asked)  # read before the loads are
        beat = Heartbeat(
            context.worker,
            context.incarnation,
            self._host,
            os.getpid(),
            context.clock(),
            tuple(await self._models.loads(statistics=statistics)),
            {group: member for serving in self._models.serving() for group, member in serving.members().items()},
            self.draining,
            asked,
            restarts=self.restarts,
        )
        return with_control(beat, self._mode, self._control)


class HeartbeatResponder:
    """Answers gateways that ask for the worker's state, with its statistics unless none of them needs them.

    Answers go straight to the directory: a supervisor relays only twice a second.

    Args:
        source: makes the heartbeats.
        sender: also gets them, so that the supervisor does not keep relaying an older one.
        directory: where asks arrive and heartbeats go.
    """

    def __init__(self, source: HeartbeatSource, sender: HeartbeatSender, directory: Directory) -> None:
        self._source = source
        self._sender = sender
        self._directory = directory
        self._asked = asyncio.Event()
        self._statistics = False

    async def listen(self) -> None:
        """Receive asks from now on. Raises `Unavailable` when the store cannot be reached."""
        await self._directory.listen_asks(self._on_ask)
        self._source.asked = collections.deque(maxlen=MAX_ASKS)

    async def answer(self) -> None:
        """Wait for an ask and answer it; asks that arrive meanwhile are for the next call."""
        await self._asked.wait()
        self._asked.clear()
        statistics, self._statistics = self._statistics, False
        beat = await self._source.current_heartbeat(statistics=statistics)
        await self._sender.beat(beat)
        await self._directory.answer(beat)

    def _on_ask(self, ask: str) -> None:
        if self._source.asked is not None:
            self._source.asked.append(ask[:MAX_ASK])
            self._statistics = self._statistics or not ask.endswith(STATE_ONLY)
            self._asked.set()


class DirectorySender:
    """Straight to the directory: for a worker without a supervisor."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def beat(self, heartbeat: Heartbeat) -> None:
        """See `HeartbeatSender.beat`."""
        await self._directory.beat(heartbeat)


class PipeSender:
    """To the supervisor, which relays the newest heartbeat even while this process is too busy to send one."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._transport: asyncio.WriteTransport | None = None

    def close(self) -> None:
        """Close the pipe."""
        if self._transport is not None:
            self._transport.close()

    async def beat(self, heartbeat: Heartbeat) -> None:
        """See `HeartbeatSender.beat`."""
        if self._transport is None:
            loop = asyncio.get_running_loop()
            pipe = os.fdopen(self._fd, "wb", buffering=0)
            self._transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, pipe)
        if self._transport.is_closing():
            raise SupervisorGone("the supervisor of this worker has ended")
        if self._transport.get_write_buffer_size() < MAX_PIPE:
            self._transport.write(frame(encode_heartbeat(heartbeat)))
