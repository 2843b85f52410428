"""The side of the process that has the log: makes the calls of processes that take HTTP and gRPC calls, on its own transport.

Each connection is as a process of a fleet: a bus and a store of its own on the same broker and results. Its listeners end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import structlog

from protocol.errors import CodecError, FleetError, Unsupported, described
from protocol.ports import Cancel, FinishOutcome, OutRecord, Record, Terminal, Wake
from protocol.runtime.microtasks import Microtasks
from protocol.runtime.tasks import BackgroundTasks
from protocol.totals import Counts
from protocol.transport.embedded.memory import MemoryBus, MemoryStore
from protocol.transport.embedded.remote.frames import Frame
from protocol.transport.embedded.remote.link import Link
from protocol.transport.embedded.remote.values import tuples, value_of

BUS: Final = frozenset(
    {"ensure_topic", "raise_partitions", "partitions", "publish", "read_record", "committed", "extents"}
)
STORE: Final = frozenset(
    {"now", "totals", "claim", "confirm", "start", "look", "trim", "release", "cancel", "fill",
     "beat", "workers", "forget", "ask", "answer", "answers", "hint_waiting"}
)  # fmt: skip

log = structlog.get_logger(__name__)


class RemoteServer:
    """Serves the transport of this process to others.

    Args:
        bus, store: the process's own, in memory or in a data folder.
        microtasks: of the parts that they connect.
    """

    def __init__(self, bus: MemoryBus, store: MemoryStore, microtasks: Microtasks) -> None:
        self._bus = bus
        self._store = store
        self._microtasks = microtasks
        self._tasks = BackgroundTasks("remote server")
        self._connections: set[_Connection] = set()

    def attach(self) -> socket.socket:
        """A new connection; returns the other process's end."""
        ours, theirs = socket.socketpair()
        connection = _Connection(
            self._bus.another(), self._store.another(), self._microtasks, self._connections.discard
        )
        self._connections.add(connection)
        self._tasks.spawn(connection.open(ours))
        return theirs

    async def close(self) -> None:
        """Close all connections."""
        for connection in list(self._connections):
            await connection.close()
        await self._tasks.close()


class _Connection:
    """One process's connection."""

    def __init__(
        self, bus: MemoryBus, store: MemoryStore, microtasks: Microtasks, on_gone: Callable[[_Connection], None]
    ) -> None:
        self._bus = bus
        self._store = store
        self._microtasks = microtasks
        self._on_gone = on_gone
        self._link = Link(self._take, self._lost)
        self._tasks = BackgroundTasks("remote connection")
        self._follows: dict[int, AsyncIterator[Sequence[Record]]] = {}
        self._closing: asyncio.Task[None] | None = None

    async def open(self, end: socket.socket) -> None:
        """Serve this end."""
        await self._bus.open()
        await self._store.open()
        await self._link.open(end)

    async def close(self) -> None:
        """Close it: its listeners and its followers end."""
        self._link.close()
        await self._close()

    def _lost(self) -> None:
        self._closing = asyncio.get_running_loop().create_task(self._close())

    async def _close(self) -> None:
        self._on_gone(self)
        await self._bus.close()
        await self._store.close()
        await self._tasks.close()

    def _take(self, frames: list[Frame]) -> None:
        for (number, method, arguments), binaries in frames:
            try:
                values = tuples(value_of(arguments, binaries))
            except CodecError as error:
                self._link.send(number, error)
                continue
            if method == "publish" and self._bus.immediate is not None and values[2] is None:
                self._answer_now(number, *values[:2])
            else:
                self._tasks.spawn(self._answer(number, method, values))
        self._microtasks.run()  # what the records lead to follows in this turn

    def _answer_now(self, number: int, topic: str, records: Sequence[OutRecord]) -> None:
        try:
            self._link.send(number, self._bus.publish_now(topic, records))
        except FleetError as error:
            self._link.send(number, error)

    async def _answer(self, number: int, method: str, values: Sequence[Any]) -> None:
        try:
            self._link.send(number, await self._call(method, values))
        except FleetError as error:
            self._link.send(number, error)
        except Exception as error:
            log.exception("a call of a process that takes calls failed", call=method)
            self._link.send(number, FleetError(described(error)))

    async def _call(self, method: str, values: Sequence[Any]) -> Any:
        if method in BUS:
            return await getattr(self._bus, method)(*values)
        if method in STORE:
            return await getattr(self._store, method)(*values)
        if (own := getattr(self, f"_on_{method}", None)) is not None:
            return await own(*values)
        raise Unsupported(f"'{method}' is not offered to the processes that take calls")

    async def _on_ensure_compacted(self, topic: str, partitions: int) -> int:
        return await self._bus.ensure_topic(topic, partitions, compacted=True)

    async def _on_finish(
        self, answers: Sequence[Terminal], counts: Sequence[Counts], places: Sequence[int]
    ) -> list[FinishOutcome]:
        for answer, place in zip(answers, places, strict=True):
            answer.counts = counts[place] if place >= 0 else None
        return await self._store.finish(answers)

    async def _on_healthy(self) -> list[bool]:
        return [await self._bus.healthy(), await self._store.healthy()]

    async def _on_follow(self, number: int, topic: str, start: dict[int, int]) -> None:
        self._follows[number] = self._bus.follow(topic, start)

    async def _on_next(self, number: int) -> list[Record] | None:
        """The next records of a follower; None at its end."""
        with contextlib.suppress(StopAsyncIteration):
            return list(await anext(self._follows[number]))
        return None

    async def _on_unfollow(self, number: int) -> None:
        self._follows.pop(number, None)

    async def _on_listen(self, channel: str) -> None:
        def on_wake(wakes: list[Wake]) -> None:
            self._link.send(0, "wake", channel, wakes)

        await self._store.listen(channel, on_wake)

    async def _on_listen_cancels(self, channel: str) -> None:
        def on_cancel(cancels: list[Cancel]) -> None:
            self._link.send(0, "cancel", channel, cancels)

        await self._store.listen_cancels(channel, on_cancel)

    async def _on_listen_asks(self) -> None:
        await self._store.listen_asks(lambda ask: self._link.send(0, "ask", "", ask))

    async def _on_listen_waiting(self) -> None:
        await self._store.listen_waiting(lambda topic: self._link.send(0, "waiting", "", topic))

    async def _on_unlisten(self, channel: str) -> None:
        await self._store.unlisten(channel)
