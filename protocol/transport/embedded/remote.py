"""The transport of a process that takes calls, over a socket to the process that has the log and the models.

It offers what a gateway needs. Reading a topic as a member of a group is for workers, which are in the process with the log.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import socket
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any, Final

from protocol.codec import as_bytes
from protocol.errors import FleetError, TooLarge, Unavailable, Unsupported
from protocol.frames import MAX_RECORD
from protocol.messages import Heartbeat, Pulse, pulse_of
from protocol.ports import (
    Cancel,
    Claim,
    Claimed,
    Consumer,
    FinishOutcome,
    Listener,
    OutRecord,
    Place,
    Published,
    Record,
    RequestState,
    Terminal,
    Wake,
)
from protocol.totals import Key
from protocol.transport.embedded.remote_frames import Frame
from protocol.transport.embedded.remote_link import Link
from protocol.transport.embedded.remote_values import value_of

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


class RemoteBus:
    """The bus of a process that takes calls; see `protocol.ports.Bus`."""

    def __init__(self, calls: RemoteCalls) -> None:
        self._calls = calls
        self._is_open = False
        self._follows = itertools.count(1)

    @property
    def immediate(self) -> None:
        """None: the log is in another process."""

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

    async def ensure_topic(self, topic: str, partitions: int, *, compacted: bool = False) -> int:
        """See `Bus.ensure_topic`."""
        return int(await self._call("ensure_compacted" if compacted else "ensure_topic", topic, partitions))

    async def raise_partitions(self, topic: str, partitions: int) -> int:
        """See `Bus.raise_partitions`."""
        return int(await self._call("raise_partitions", topic, partitions))

    async def partitions(self, topic: str) -> int:
        """See `Bus.partitions`."""
        return int(await self._call("partitions", topic))

    async def publish(self, topic: str, records: Sequence[OutRecord], partition: int | None = None) -> Published:
        """See `Bus.publish`."""
        records = as_bytes(records)
        for record in records:
            if record.size > MAX_RECORD:
                raise TooLarge(f"a record of {record.size} bytes is over the limit of {MAX_RECORD}")
        published: Published = await self._call("publish", topic, records, partition)
        return published

    async def subscribe(self, topic: str, group: str, member: str, listener: Listener) -> Consumer:
        """Not offered: groups of consumers are for workers.

        Raises:
            Unsupported: always.
        """
        raise Unsupported("'subscribe' is not offered to the processes that take calls: workers are where the log is")

    async def follow(self, topic: str, start: Mapping[int, int] | None = None) -> AsyncIterator[Sequence[Record]]:
        """See `Bus.follow`. Ends when the other process closes its log."""
        number = next(self._follows)
        await self._call("follow", number, topic, start or {})
        try:
            while (records := await self._call("next", number)) is not None:
                yield records
        finally:
            if self._is_open and self._calls.is_open:
                # Nobody waits for it: this may be the end of a task.
                self._calls.call("unfollow", number).add_done_callback(_seen)

    async def read_record(self, topic: str, partition: int, offset: int) -> Record | None:
        """See `Bus.read_record`."""
        record: Record | None = await self._call("read_record", topic, partition, offset)
        return record

    async def committed(self, topic: str, group: str) -> Mapping[int, int]:
        """See `Bus.committed`."""
        offsets: Mapping[int, int] = await self._call("committed", topic, group)
        return offsets

    async def extents(self, topics: Collection[str]) -> Mapping[str, Mapping[int, tuple[int, int]]]:
        """See `Bus.extents`."""
        found: Mapping[str, Mapping[int, list[int]]] = await self._call("extents", list(topics))
        return {
            topic: {partition: (start, end) for partition, (start, end) in of.items()} for topic, of in found.items()
        }

    async def evict(self, group: str, members: Sequence[str]) -> None:
        """Not offered, as `subscribe`.

        Raises:
            Unsupported: always.
        """
        raise Unsupported("'evict' is not offered to the processes that take calls: workers are where the log is")

    async def healthy(self) -> bool:
        """Whether the other process is there and its log takes records."""
        try:
            return self._is_open and bool((await self._calls.call("healthy"))[0])
        except Unavailable:
            return False

    def _call(self, method: str, *arguments: Any) -> asyncio.Future[Any]:
        if not self._is_open:
            raise Unavailable("the bus is closed")
        return self._calls.call(method, *arguments)


class RemoteStore:
    """Results and directory of a process that takes calls; see `protocol.ports.Results` and `Directory`."""

    def __init__(self, calls: RemoteCalls) -> None:
        self._calls = calls
        self._is_open = False

    @property
    def immediate(self) -> None:
        """None: the results are in another process."""

    async def open(self) -> None:
        """Connect."""
        if not self._is_open:
            self._is_open = True
            await self._calls.open()

    async def close(self) -> None:
        """Disconnect, and stop listening."""
        if self._is_open:
            self._is_open = False
            self._calls.wakes.clear()
            self._calls.cancels.clear()
            self._calls.asks.clear()
            self._calls.waiting.clear()
            self._calls.close()

    async def healthy(self) -> bool:
        """Whether the other process is there and its results can be written."""
        try:
            return self._is_open and bool((await self._calls.call("healthy"))[1])
        except Unavailable:
            return False

    async def now(self) -> float:
        """Seconds since the epoch."""
        return float(await self._call("now"))

    async def fill(self) -> float:
        """See `Results.fill`."""
        return float(await self._call("fill"))

    async def finish(self, answers: Sequence[Terminal]) -> list[FinishOutcome]:
        """See `Results.finish`."""
        # Answers may share one object of counts, which then counts once: it must be one object there, too.
        counts = {id(answer.counts): answer.counts for answer in answers if answer.counts is not None}
        place = {identity: number for number, identity in enumerate(counts)}
        places = [-1 if answer.counts is None else place[id(answer.counts)] for answer in answers]
        plain = [dataclasses.replace(answer, counts=None) for answer in answers]
        outcomes: list[FinishOutcome] = await self._call("finish", plain, list(counts.values()), places)
        return outcomes

    async def totals(self, versions: Sequence[Key]) -> list[dict[str, int]]:
        """See `Results.totals`."""
        totals: list[dict[str, int]] = await self._call("totals", versions)
        return totals

    async def claim(self, claim: Claim) -> Claimed:
        """See `Results.claim`."""
        claimed: Claimed = await self._call("claim", claim)
        return claimed

    async def confirm(self, ref: str, published: bool, place: Place | None = None) -> None:
        """See `Results.confirm`."""
        await self._call("confirm", ref, published, place)

    async def start(self, refs: Sequence[str], worker: str, ttl: float) -> list[int]:
        """See `Results.start`."""
        attempts: list[int] = await self._call("start", refs, worker, ttl)
        return attempts

    async def look(self, refs: Sequence[str]) -> list[RequestState | None]:
        """See `Results.look`."""
        states: list[RequestState | None] = await self._call("look", refs)
        return states

    async def trim(self, refs: Sequence[str]) -> None:
        """See `Results.trim`."""
        await self._call("trim", refs)

    async def release(self, refs: Sequence[str]) -> None:
        """See `Results.release`."""
        await self._call("release", refs)

    async def listen(self, channel: str, on_wake: Callable[[list[Wake]], None]) -> None:
        """See `Results.listen`."""
        self._calls.wakes[channel] = on_wake
        await self._call("listen", channel)

    async def cancel(self, channel: str, cancels: Sequence[Cancel]) -> None:
        """See `Results.cancel`."""
        await self._call("cancel", channel, cancels)

    async def listen_cancels(self, channel: str, on_cancel: Callable[[list[Cancel]], None]) -> None:
        """See `Results.listen_cancels`."""
        self._calls.cancels[channel] = on_cancel
        await self._call("listen_cancels", channel)

    async def unlisten(self, channel: str) -> None:
        """See `Results.unlisten`."""
        self._calls.wakes.pop(channel, None)
        self._calls.cancels.pop(channel, None)
        if self._calls.is_open:
            await self._call("unlisten", channel)

    async def beat(self, heartbeat: Heartbeat) -> None:
        """See `Directory.beat`."""
        await self._call("beat", heartbeat)

    async def workers(self) -> list[Heartbeat]:
        """See `Directory.workers`."""
        beats: list[Heartbeat] = await self._call("workers")
        return beats

    async def forget(self, worker: str) -> None:
        """See `Directory.forget`."""
        await self._call("forget", worker)

    async def pulses(self, workers: Collection[str] | None = None) -> list[Pulse]:
        """See `Directory.pulses`."""
        return [pulse_of(beat) for beat in await self.workers() if workers is None or beat.worker in workers]

    async def answer(self, heartbeat: Heartbeat) -> None:
        """See `Directory.answer`."""
        await self._call("answer", heartbeat)

    async def answers(self, workers: Collection[str]) -> list[Heartbeat]:
        """See `Directory.answers`."""
        beats: list[Heartbeat] = await self._call("answers", list(workers))
        return beats

    async def ask(self, ask: str) -> None:
        """See `Directory.ask`."""
        await self._call("ask", ask)

    async def hint_waiting(self, topic: str) -> None:
        """See `Directory.hint_waiting`."""
        await self._call("hint_waiting", topic)

    async def listen_waiting(self, on_hint: Callable[[str], None]) -> None:
        """See `Directory.listen_waiting`."""
        self._calls.waiting.append(on_hint)
        await self._call("listen_waiting")

    async def listen_asks(self, on_ask: Callable[[str], None]) -> None:
        """See `Directory.listen_asks`."""
        self._calls.asks.append(on_ask)
        await self._call("listen_asks")

    def _call(self, method: str, *arguments: Any) -> asyncio.Future[Any]:
        if not self._is_open:
            raise Unavailable("the result store is closed")
        return self._calls.call(method, *arguments)


def _seen(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()
