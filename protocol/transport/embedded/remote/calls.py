"""Calls to the process with the log and the models, over one socket."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable
from typing import Any, ClassVar, Final

from protocol.errors import FleetError, Unavailable
from protocol.ports import Cancel, Wake
from protocol.transport.embedded.remote.frames import Frame
from protocol.transport.embedded.remote.link import Link
from protocol.transport.embedded.remote.values import value_of

_GONE: Final = "the process with the models is gone"


class RemoteCalls:
    """Calls over one socket; a bus and a store share it.

    Args:
        end: of the socket; belongs to this object.
        on_lost: called when the other process is gone without `close`.

    Attributes:
        wakes, cancels: the listeners of each channel.
        asks, waiting: the listeners of asks, and of hints about waiting requests.
    """

    def __init__(self, end: socket.socket, on_lost: Callable[[], None] = lambda: None) -> None:
        self._end = end
        self._on_lost = on_lost
        self._link = Link(self._take, self._lost)
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._users = 0
        self._opening: asyncio.Task[None] | None = None
        self.wakes: dict[str, Callable[[list[Wake]], None]] = {}
        self.cancels: dict[str, Callable[[list[Cancel]], None]] = {}
        self.asks: list[Callable[[str], None]] = []
        self.waiting: list[Callable[[str], None]] = []

    @property
    def is_open(self) -> bool:
        """Whether the other process is there."""
        return self._link.is_open

    async def open(self) -> None:
        """Count one more user; the first one connects."""
        self._users += 1
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._link.open(self._end))
        await asyncio.shield(self._opening)

    def close(self) -> None:
        """Count one user fewer; the last one disconnects."""
        self._users -= 1
        if not self._users:
            self._on_lost = lambda: None
            self._link.close()

    def forget_listeners(self) -> None:
        """Call nobody back any more."""
        self.wakes.clear()
        self.cancels.clear()
        self.asks.clear()
        self.waiting.clear()

    def call(self, method: str, *arguments: Any) -> asyncio.Future[Any]:
        """The result of a call in the other process.

        Raises:
            FleetError: (in the future) as the call there; Unavailable if the process is gone.
        """
        done = asyncio.get_running_loop().create_future()
        if not self._link.is_open:
            done.set_exception(Unavailable(_GONE))
            return done
        number = next(self._numbers)
        self._waiting[number] = done
        self._link.send(number, method, arguments)
        return done

    def _take(self, frames: list[Frame]) -> None:
        for (number, *rest), binaries in frames:
            if number:
                self._answer(number, value_of(rest[0], binaries))
            else:
                kind, channel, data = rest
                self._notify(kind, channel, value_of(data, binaries))

    def _answer(self, number: int, value: Any) -> None:
        done = self._waiting.pop(number, None)
        if done is None or done.done():
            return  # its caller has gone
        if isinstance(value, FleetError):
            done.set_exception(value)
        else:
            done.set_result(value)

    def _notify(self, kind: str, channel: str, value: Any) -> None:
        if kind == "wake" and (on_wake := self.wakes.get(channel)) is not None:
            on_wake(value)
        elif kind == "cancel" and (on_cancel := self.cancels.get(channel)) is not None:
            on_cancel(value)
        elif kind in ("ask", "waiting"):
            for on_text in self.asks if kind == "ask" else self.waiting:
                on_text(value)

    def _lost(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for done in waiting.values():
            if not done.done():
                done.set_exception(Unavailable(_GONE))
        self._on_lost()


class RemotePort:
    """What the bus and the store have in common.

    Args:
        calls: over the socket.

    Attributes:
        name: of what this stands for, in errors.
    """

    name: ClassVar[str]

    def __init__(self, calls: RemoteCalls) -> None:
        self._calls = calls
        self._is_open = False

    @property
    def immediate(self) -> None:
        """None: what it stands for is in another process."""

    async def open(self) -> None:
        """Connect."""
        if not self._is_open:
            self._is_open = True
            await self._calls.open()

    async def close(self) -> None:
        """Disconnect."""
        if self._is_open:
            self._is_open = False
            self._calls.close()

    def _call(self, method: str, *arguments: Any) -> asyncio.Future[Any]:
        if not self._is_open:
            raise Unavailable(f"the {self.name} is closed")
        return self._calls.call(method, *arguments)
