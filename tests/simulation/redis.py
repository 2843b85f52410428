"""A Redis over the real fence logic: it can be unreachable, full, read-only, restarted empty, or failed over without its last
second of writes.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from protocol.codec import micros
from protocol.errors import Unavailable
from protocol.messages import Heartbeat, Pulse, pulse_of
from protocol.ports import Cancel, Claim, Claimed, ClaimState, FinishOutcome, Place, RequestState, Terminal, Wake
from protocol.totals import KeptTotals, Key
from protocol.transport.embedded.fence import Fences, counted
from tests.simulation.loop import Process, VirtualLoop
from tests.simulation.weather import EPOCH, Network, Weather

T = TypeVar("T")


@dataclasses.dataclass
class Subscription:
    process: Process
    callback: Callable[[list[Any]], None]
    deaf_until: float = 0.0


class Redis:
    """The server, and callbacks for an outside observer.

    Attributes:
        on_finish: called for every terminal write with its outcome.
        on_fresh: called for every granted claim.
        on_start: called when a worker begins requests.
        on_loss: called when data was lost.
        on_cancel: called for every cancellation that reaches a worker.
        on_release: called for requests that may run again.
    """

    def __init__(self, loop: VirtualLoop, weather: Weather, result_ttl: float) -> None:
        self.loop = loop
        self.weather = weather
        self.fences = Fences()
        self.heartbeats: dict[str, Heartbeat] = {}
        self.subscriptions: dict[str, list[Subscription]] = {}
        self.on_finish: Callable[[Terminal, FinishOutcome], None] = lambda *_: None
        self.on_fresh: Callable[[Claim], None] = lambda *_: None
        self.on_start: Callable[[Sequence[str], str], None] = lambda *_: None
        self.on_loss: Callable[[bool], None] = lambda partly: None
        self.on_cancel: Callable[[Process, list[Cancel]], None] = lambda *_: None
        self.on_release: Callable[[Sequence[str]], None] = lambda _: None
        self._result_ttl = result_ttl
        self.totals = KeptTotals()
        self._replica: tuple[Fences, dict[str, Heartbeat], KeptTotals] | None = None

    def now(self) -> float:
        return EPOCH + self.loop.now

    def writable(self) -> None:
        if self.weather.redis == "oom":
            raise Unavailable("OOM command not allowed when used memory > 'maxmemory'")
        if self.weather.redis == "readonly":
            raise Unavailable("READONLY You can't write against a read only replica")

    # --- faults ---

    def restart_empty(self) -> None:
        self._lose(Fences(), {}, KeptTotals(), partly=False)

    def stop_replicating(self) -> None:
        """Later writes do not reach the replica."""
        self._replica = (copy.deepcopy(self.fences), dict(self.heartbeats), copy.deepcopy(self.totals))

    def fail_over(self) -> None:
        """The replica is the primary now."""
        if self._replica is not None:
            self._lose(*self._replica, partly=True)
            self._replica = None

    def _lose(self, fences: Fences, heartbeats: dict[str, Heartbeat], totals: KeptTotals, *, partly: bool) -> None:
        self.fences, self.heartbeats, self.totals = fences, heartbeats, totals
        self.on_loss(partly)
        for subscriptions in self.subscriptions.values():
            for subscription in subscriptions:
                subscription.deaf_until = self.loop.now + self.weather.dice.uniform(0.0, 1.0)

    # --- commands ---

    def finish(self, answers: Sequence[Terminal]) -> list[FinishOutcome]:
        self.writable()
        outcomes, wakes = self.fences.finish(answers, self.now(), self._result_ttl)
        self.totals.count(*counted(answers, outcomes))
        for answer, outcome in zip(answers, outcomes, strict=True):
            self.on_finish(answer, outcome)
        for channel, hints in wakes.items():
            self.send(channel, hints)
        return outcomes

    def read_totals(self, versions: Sequence[Key]) -> list[dict[str, int]]:
        return self.totals.read(versions)

    def claim(self, claim: Claim) -> Claimed:
        self.writable()
        claimed = self.fences.claim(claim, self.now())
        if claimed.state is ClaimState.FRESH:
            self.on_fresh(claim)
        return claimed

    def confirm(self, ref: str, published: bool, place: Place | None) -> None:
        self.writable()
        self.fences.confirm(ref, published, self.now(), place)

    def start(self, refs: Sequence[str], worker: str, ttl: float) -> list[int]:
        self.writable()
        self.on_start(refs, worker)
        return [self.fences.start(ref, worker, ttl, self.now()) for ref in refs]

    def look(self, refs: Sequence[str]) -> list[RequestState | None]:
        return [self.fences.look(ref, self.now()) for ref in refs]

    def trim(self, refs: Sequence[str]) -> None:
        for ref in refs:
            self.fences.trim(ref, self.now())

    def release(self, refs: Sequence[str]) -> None:
        self.on_release(refs)
        for ref in refs:
            self.fences.release(ref, self.now())

    def beat(self, heartbeat: Heartbeat) -> None:
        self.writable()
        self.heartbeats[heartbeat.worker] = heartbeat

    # --- publish and subscribe ---

    def send(self, channel: str, message: list[Any]) -> None:
        """Hints: lost, doubled and out of order."""
        weather = self.weather
        for subscription in self.subscriptions.get(channel, []):
            if subscription.deaf_until > self.loop.now or "redis" in subscription.process.cut:
                continue
            copies = 0 if weather.happens(weather.wakes_lost) else 1 + weather.happens(weather.wakes_doubled)
            for _ in range(copies):
                self.loop.call_later(
                    weather.latency(), self._deliver, subscription, list(message), context=subscription.process.context
                )

    def _deliver(self, subscription: Subscription, message: list[Any]) -> None:
        if message and isinstance(message[0], Cancel):
            self.on_cancel(subscription.process, message)
        subscription.callback(message)


class SimStore:
    """`protocol.ports.Results` and `Directory` of one process."""

    def __init__(self, server: Redis, network: Network, process: Process) -> None:
        self._server = server
        self._network = network
        self._process = process

    async def _call(self, do: Callable[[], T]) -> T:
        return await self._network.call("redis", do)

    @property
    def immediate(self) -> None:
        return None

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        for subscriptions in self._server.subscriptions.values():
            subscriptions[:] = [s for s in subscriptions if s.process is not self._process]

    async def now(self) -> float:
        return await self._call(self._server.now)

    async def finish(self, answers: Sequence[Terminal]) -> list[FinishOutcome]:
        return await self._call(lambda: self._server.finish(answers))

    async def totals(self, versions: Sequence[Key]) -> list[dict[str, int]]:
        return await self._call(lambda: self._server.read_totals(versions))

    async def claim(self, claim: Claim) -> Claimed:
        return await self._call(lambda: self._server.claim(claim))

    async def confirm(self, ref: str, published: bool, place: Place | None = None) -> None:
        await self._call(lambda: self._server.confirm(ref, published, place))

    async def start(self, refs: Sequence[str], worker: str, ttl: float) -> list[int]:
        return await self._call(lambda: self._server.start(refs, worker, ttl))

    async def look(self, refs: Sequence[str]) -> list[RequestState | None]:
        return await self._call(lambda: self._server.look(refs))

    async def trim(self, refs: Sequence[str]) -> None:
        await self._call(lambda: self._server.trim(refs))

    async def release(self, refs: Sequence[str]) -> None:
        await self._call(lambda: self._server.release(refs))

    async def listen(self, channel: str, on_wake: Callable[[list[Wake]], None]) -> None:
        subscription = Subscription(self._process, on_wake)
        await self._call(lambda: self._server.subscriptions.setdefault(channel, []).append(subscription))

    async def cancel(self, channel: str, cancels: Sequence[Cancel]) -> None:
        told = [Cancel(cancel.ref, micros(cancel.until) / 1e6) for cancel in cancels]
        await self._call(lambda: self._server.send(channel, told))

    async def listen_cancels(self, channel: str, on_cancel: Callable[[list[Cancel]], None]) -> None:
        await self.listen(channel, on_cancel)

    async def unlisten(self, channel: str) -> None:
        subscriptions = self._server.subscriptions.get(channel, [])
        subscriptions[:] = [s for s in subscriptions if s.process is not self._process]

    async def fill(self) -> float:
        return 1.0 if self._server.weather.redis == "oom" else 0.1

    async def healthy(self) -> bool:
        return self._network.reachable("redis")

    async def beat(self, heartbeat: Heartbeat) -> None:
        await self._call(lambda: self._server.beat(heartbeat))

    async def workers(self) -> list[Heartbeat]:
        return await self._call(lambda: list(self._server.heartbeats.values()))

    async def pulses(self, workers: Collection[str] | None = None) -> list[Pulse]:
        return [pulse_of(beat) for beat in await self.workers() if workers is None or beat.worker in workers]

    async def forget(self, worker: str) -> None:
        await self._call(lambda: self._server.heartbeats.pop(worker, None))

    async def hint_waiting(self, topic: str) -> None:
        """Nobody listens."""

    async def listen_waiting(self, on_hint: Callable[[str], None]) -> None:
        raise NotImplementedError("the simulation has no scaler")

    async def ask(self, ask: str) -> None:
        raise NotImplementedError("the simulation requests no statistics")

    async def listen_asks(self, on_ask: Callable[[str], None]) -> None:
        raise NotImplementedError("the simulation answers no requests for statistics")

    async def answer(self, heartbeat: Heartbeat) -> None:
        raise NotImplementedError("the simulation answers no requests for statistics")

    async def answers(self, workers: Collection[str]) -> list[Heartbeat]:
        raise NotImplementedError("the simulation requests no statistics")
