"""From start to close: what a signal ends, and what is closed then."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from protocol.runtime.loop import QUICK, StopEvent
from protocol.runtime.serving import serve


class Served:
    """Notes what happens to it. Signals itself where it is told to."""

    def __init__(self, *signals: str, number: int = signal.SIGTERM) -> None:
        self.noted: list[str] = []
        self.grace = 0.0
        self._signals = signals
        self._number = number

    async def start(self) -> None:
        await self._note("start")

    async def drain(self, asked: StopEvent) -> None:
        self.grace = asked.grace(30.0)
        await self._note("drain")

    async def close(self) -> None:
        self.noted.append("close")

    async def _note(self, step: str) -> None:
        self.noted.append(step)
        if step in self._signals:
            os.kill(os.getpid(), self._number)
            await asyncio.Event().wait()

    async def serve(self) -> list[str]:
        def started() -> None:
            self.noted.append("started")
            os.kill(os.getpid(), self._number)

        await serve(self.start, self.close, lambda: self.noted.append("tuned"), started, drain=self.drain)
        return self.noted


async def test_it_starts_drains_and_closes() -> None:
    served = Served()

    assert await served.serve() == ["start", "tuned", "started", "drain", "close"]
    assert served.grace == 30.0


async def test_from_a_terminal_requests_in_flight_get_less_time() -> None:
    served = Served(number=signal.SIGINT)

    await served.serve()

    assert served.grace == QUICK


async def test_a_signal_during_the_start_cancels_it() -> None:
    assert await Served("start").serve() == ["start"]


async def test_a_second_signal_ends_the_draining() -> None:
    assert await Served("drain").serve() == ["start", "tuned", "started", "drain", "close"]


async def test_a_start_that_fails_has_closed_what_it_began() -> None:
    closed: list[str] = []

    async def start() -> None:
        raise ValueError("no")

    async def close() -> None:
        closed.append("close")

    with pytest.raises(ValueError, match="no"):
        await serve(start, close)
    assert closed == []


async def test_what_fails_once_it_serves_is_closed() -> None:
    served = Served()

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await serve(served.start, served.close, fail)
    assert served.noted == ["start", "close"]
