"""Heartbeats that are newer than the poll."""

from __future__ import annotations

import asyncio
import dataclasses

from gateway.catalogue.heartbeats import HeartbeatPoller
from protocol.messages import Heartbeat
from protocol.runtime.clock import Clock
from protocol.transport.embedded.memory import MemoryServer, MemoryStore
from protocol.transport.settings import TransportSettings


class Answering:
    """A worker that beats when polled, with its count so far."""

    def __init__(self, name: str, store: MemoryStore, clock: Clock) -> None:
        self.name, self.store, self.clock = name, store, clock
        self.counted = 0
        self.asks: list[str] = []
        self.silent = False
        self.seen = asyncio.Event()

    async def start(self) -> None:
        await self.store.listen_asks(self._on_ask)
        await self._beat()

    def _on_ask(self, ask: str) -> None:
        self.asks.append(ask)
        self.seen.set()
        if not self.silent:
            asyncio.get_running_loop().create_task(self._beat())

    async def _beat(self) -> None:
        await self.store.beat(Heartbeat(self.name, "i", "h", self.counted, self.clock(), asked=tuple(self.asks[-64:])))


@dataclasses.dataclass
class Site:
    poller: HeartbeatPoller
    workers: list[Answering]


async def site(count: int = 2, live: float = 2.0) -> Site:
    server, clock = MemoryServer(), Clock()
    workers = []
    for number in range(count):
        store = MemoryStore(TransportSettings(), server)
        await store.open()
        workers.append(Answering(f"w{number}", store, clock))
        await workers[-1].start()
    own = MemoryStore(TransportSettings(), server)
    await own.open()
    return Site(HeartbeatPoller(own, clock, live), workers)


def counted(beats: list[Heartbeat]) -> list[int]:
    return [beat.pid for beat in beats]


async def test_what_was_counted_before_the_question_is_in_the_answer() -> None:
    s = await site()
    for number in range(1, 20):
        for worker in s.workers:
            worker.counted = number
        assert counted(await s.poller.poll()) == [number, number]


async def test_whoever_comes_while_a_question_is_out_gets_a_newer_answer() -> None:
    s = await site(1)
    (worker,) = s.workers
    worker.silent = True
    first = asyncio.ensure_future(s.poller.poll())
    await worker.seen.wait()
    await worker._beat()  # the first one's answer, before the next call is counted
    worker.counted = 1
    worker.silent = False
    later = [asyncio.ensure_future(s.poller.poll()) for _ in range(50)]
    assert counted(await first) == [0]
    assert [counted(beats) for beats in await asyncio.gather(*later)] == [[1]] * 50
    assert len(worker.asks) == 2


async def test_a_worker_that_does_not_answer_is_not_waited_for_for_ever() -> None:
    s = await site()
    s.workers[0].silent = True
    s.workers[1].counted = 5
    assert counted(await s.poller.poll()) == [0, 5]


async def test_a_worker_that_cannot_be_asked_or_is_dead_is_not_waited_for() -> None:
    s = await site(1)
    store = s.workers[0].store
    await store.beat(Heartbeat("old", "i", "h", 7, s.workers[0].clock()))
    await store.beat(Heartbeat("dead", "i", "h", 8, 1.0, asked=()))
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert counted(await s.poller.poll()) == [0, 7, 8]
    assert loop.time() - began < 0.9


async def test_closing_ends_a_question() -> None:
    s = await site(1)
    s.workers[0].silent = True
    asking = asyncio.ensure_future(s.poller.poll())
    await s.workers[0].seen.wait()
    await s.poller.close()
    assert isinstance((await asyncio.gather(asking, return_exceptions=True))[0], asyncio.CancelledError)
