"""Results and directory in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from protocol.codec import micros
from protocol.errors import Unavailable
from protocol.messages import Heartbeat, Pulse, pulse_of
from protocol.ports import (
    Cancel,
    Claim,
    Claimed,
    FinishOutcome,
    ImmediateResults,
    Place,
    RequestState,
    Terminal,
    Wake,
)
from protocol.runtime.microtasks import Microtasks
from protocol.totals import KeptTotals, Key
from protocol.transport.embedded.fence import Fences, counted
from protocol.transport.settings import TransportSettings

RESULTS_LIMIT: Final = 512 * 1024 * 1024
"""Bytes of results that are kept, unless another limit is given."""


class MemoryServer:
    """The shared state of all stores of one process: streams, totals, listeners and heartbeats.

    Args:
        limit: bytes of kept results (`fill` is the used share); above it claims are refused.
    """

    def __init__(self, limit: int = RESULTS_LIMIT) -> None:
        self.limit = limit
        self.fences = Fences()
        self.totals = KeptTotals()
        self.wakes: dict[str, dict[MemoryStore, Callable[[list[Wake]], None]]] = {}
        self.cancels: dict[str, dict[MemoryStore, Callable[[list[Cancel]], None]]] = {}
        self.heartbeats: dict[str, Heartbeat] = {}
        self.answers: dict[str, Heartbeat] = {}
        self.asks: dict[MemoryStore, Callable[[str], None]] = {}
        self.waiting: dict[MemoryStore, Callable[[str], None]] = {}


class MemoryStore:
    """Results and directory in memory; see `protocol.ports.Results` and `Directory`.

    The event loop calls back with wake-ups, once per channel and `finish`. Because such a wake-up cannot be lost, a plain answer
    that was small enough for it is not kept: `look` then reports "done" with the payload b"", as of a trimmed one.
    """

    def __init__(
        self, settings: TransportSettings, server: MemoryServer | None = None, microtasks: Microtasks | None = None
    ) -> None:
        self._server = server or MemoryServer()
        self._microtasks = microtasks or Microtasks()
        self._settings = settings
        self._result_ttl = settings.result_ttl
        self._is_open = False

    def another(self) -> MemoryStore:
        """A store of another process on the same results, not yet open."""
        return MemoryStore(self._settings, self._server, self._microtasks)

    async def open(self) -> None:
        """Connect."""
        self._is_open = True

    async def close(self) -> None:
        """Disconnect, and stop listening."""
        self._is_open = False
        for listeners in (self._server.wakes, self._server.cancels):
            for channel in list(listeners):
                self._unsubscribe(listeners, channel)
        self._server.asks.pop(self, None)
        self._server.waiting.pop(self, None)

    async def healthy(self) -> bool:
        """Whether the store is open."""
        return self._is_open

    async def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    async def fill(self) -> float:
        """Share of the limit that is used by kept results."""
        return min(1.0, self._server.fences.size / self._server.limit)

    # --- results -----------------------------------------------------------------------------------------------------

    @property
    def immediate(self) -> ImmediateResults | None:
        """This store."""
        return self

    async def finish(self, answers: Sequence[Terminal]) -> list[FinishOutcome]:
        """See `Results.finish`."""
        return self.finish_now(answers)

    def finish_now(self, answers: Sequence[Terminal]) -> list[FinishOutcome]:
        """See `ImmediateResults.finish_now`."""
        self._check_open()
        fences, now = self._server.fences, time.time()
        outcomes, wakes = fences.finish(answers, now, self._result_ttl, self._server.wakes)
        self._server.totals.count(*counted(answers, outcomes))
        self._wake(wakes)
        fences.expire(now, 2 * len(answers))
        return outcomes

    async def totals(self, versions: Sequence[Key]) -> list[dict[str, int]]:
        """See `Results.totals`."""
        self._check_open()
        return self._server.totals.read(versions)

    async def claim(self, claim: Claim) -> Claimed:
        """See `Results.claim`. Raises Unavailable when the store is full."""
        self._check_open()
        self._check_room()
        now = time.time()
        self._server.fences.expire(now, 2)
        return self._server.fences.claim(claim, now)

    async def confirm(self, ref: str, published: bool, place: Place | None = None) -> None:
        """See `Results.confirm`."""
        self._check_open()
        self._server.fences.confirm(ref, published, time.time(), place)

    async def start(self, refs: Sequence[str], worker: str, ttl: float) -> list[int]:
        """See `Results.start`."""
        self._check_open()
        now = time.time()
        return [self._server.fences.start(ref, worker, ttl, now) for ref in refs]

    async def look(self, refs: Sequence[str]) -> list[RequestState | None]:
        """See `Results.look`."""
        self._check_open()
        now = time.time()
        return [self._server.fences.look(ref, now) for ref in refs]

    async def trim(self, refs: Sequence[str]) -> None:
        """See `Results.trim`."""
        self._check_open()
        now = time.time()
        for ref in refs:
            self._server.fences.trim(ref, now)

    async def release(self, refs: Sequence[str]) -> None:
        """See `Results.release`."""
        self._check_open()
        now = time.time()
        for ref in refs:
            self._server.fences.release(ref, now)

    # --- wake-ups and cancels ----------------------------------------------------------------------------------------

    async def listen(self, channel: str, on_wake: Callable[[list[Wake]], None]) -> None:
        """See `Results.listen`."""
        self._check_open()
        self._server.wakes.setdefault(channel, {})[self] = on_wake

    async def cancel(self, channel: str, cancels: Sequence[Cancel]) -> None:
        """See `Results.cancel`."""
        self._check_open()
        loop = asyncio.get_running_loop()
        rounded = [Cancel(cancel.ref, micros(cancel.until) / 1e6) for cancel in cancels]
        for on_cancel in self._server.cancels.get(channel, {}).values():
            loop.call_soon(on_cancel, list(rounded))

    async def listen_cancels(self, channel: str, on_cancel: Callable[[list[Cancel]], None]) -> None:
        """See `Results.listen_cancels`."""
        self._check_open()
        self._server.cancels.setdefault(channel, {})[self] = on_cancel

    async def unlisten(self, channel: str) -> None:
        """See `Results.unlisten`."""
        self._unsubscribe(self._server.wakes, channel)
        self._unsubscribe(self._server.cancels, channel)

    def _wake(self, wakes: dict[str, list[Wake]]) -> None:
        for channel, hints in wakes.items():
            for on_wake in self._server.wakes.get(channel, {}).values():
                self._microtasks.add(on_wake, hints)

    def _unsubscribe(self, listeners: dict[str, dict[MemoryStore, Any]], channel: str) -> None:
        stores = listeners.get(channel, {})
        stores.pop(self, None)
        if not stores:
            listeners.pop(channel, None)

    # --- the directory -----------------------------------------------------------------------------------------------

    async def beat(self, heartbeat: Heartbeat) -> None:
        """See `Directory.beat`."""
        self._check_open()
        self._server.heartbeats[heartbeat.worker] = heartbeat

    async def workers(self) -> list[Heartbeat]:
        """See `Directory.workers`."""
        self._check_open()
        return list(self._server.heartbeats.values())

    async def forget(self, worker: str) -> None:
        """See `Directory.forget`."""
        self._check_open()
        self._server.heartbeats.pop(worker, None)
        self._server.answers.pop(worker, None)

    async def pulses(self, workers: Collection[str] | None = None) -> list[Pulse]:
        """See `Directory.pulses`."""
        self._check_open()
        beats = self._server.heartbeats.values()
        return [pulse_of(beat) for beat in beats if workers is None or beat.worker in workers]

    async def answer(self, heartbeat: Heartbeat) -> None:
        """See `Directory.answer`; the answer stays until the next one."""
        await self.beat(heartbeat)
        self._server.answers[heartbeat.worker] = heartbeat

    async def answers(self, workers: Collection[str]) -> list[Heartbeat]:
        """See `Directory.answers`."""
        self._check_open()
        server = self._server
        found = [server.answers.get(worker) or server.heartbeats.get(worker) for worker in workers]
        return [beat for beat in found if beat is not None]

    async def ask(self, ask: str) -> None:
        """See `Directory.ask`."""
        self._check_open()
        loop = asyncio.get_running_loop()
        for on_ask in self._server.asks.values():
            loop.call_soon(on_ask, ask)

    async def hint_waiting(self, topic: str) -> None:
        """See `Directory.hint_waiting`."""
        self._check_open()
        loop = asyncio.get_running_loop()
        for on_hint in self._server.waiting.values():
            loop.call_soon(on_hint, topic)

    async def listen_waiting(self, on_hint: Callable[[str], None]) -> None:
        """See `Directory.listen_waiting`."""
        self._check_open()
        self._server.waiting[self] = on_hint

    async def listen_asks(self, on_ask: Callable[[str], None]) -> None:
        """See `Directory.listen_asks`."""
        self._check_open()
        self._server.asks[self] = on_ask

    def _check_open(self) -> None:
        if not self._is_open:
            raise Unavailable("the embedded result store is closed")

    def _check_room(self) -> None:
        if self._server.fences.size > self._server.limit:
            raise Unavailable(
                f"the embedded result store is full: it keeps {self._server.fences.size} bytes of {self._server.limit}",
                retry_after=1.0,
            )
