"""The senders: open loop (requests are due whatever the server does) and closed loop (N callers, each waiting for its answer).

Invariants: in open loop a request's latency starts at its due time, even when it had to wait for a connection; every request that
was due is recorded exactly once, unanswered ones as failed when the grace is over.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from loadtest.pacing import Alarm
from loadtest.samples import Outcome, Recorder


@dataclasses.dataclass(slots=True, eq=False)
class Ticket:
    """One request in flight.

    Attributes:
        index: its number; the payload is this modulo the pool's size.
        due: when to send it, in seconds since the start of the load.
        sent: when it was sent, on `time.perf_counter`; the target sets it.
    """

    index: int
    due: float
    sent: float = 0.0


Answered = Callable[[Ticket, Outcome], None]


class Target(Protocol):
    """Where requests go. Everything happens on one event loop."""

    async def open(self, answered: Answered, width: int) -> None:
        """Connect, ready for `width` requests at once; `answered` is called once per sent ticket, never from inside `send`."""

    def send(self, ticket: Ticket) -> None:
        """Send the request now, or queue it; does not block."""

    async def close(self) -> None:
        """Disconnect; tickets still open are never answered."""


async def open_loop(
    target: Target, times: Iterator[float], recorder: Recorder, *, width: int = 64, grace: float = 10.0
) -> None:
    """Send one request at each of `times` (seconds from now) and record how each ended.

    Args:
        target: opened and closed here.
        times: non-decreasing; see `arrivals.schedule`.
        recorder: gets times in seconds since the start.
        width: connections to open beforehand.
        grace: seconds that answers may take after the last request was sent; then they count as failed.
    """
    await _Run(target, recorder, width, grace).play(times)


async def closed_loop(
    target: Target, callers: int, duration: float, recorder: Recorder, *, grace: float = 10.0
) -> None:
    """`callers` at once, each sending its next request after its answer, for `duration` seconds.

    Latency counts from the time of sending: while the server stalls, no request is sent. That hides stalls, so compare servers'
    capacity with it and their latency with `open_loop`.
    """
    run = _Run(target, recorder, callers, grace)
    await run.keep(callers, duration)


class _Run:
    """One run against one target."""

    def __init__(self, target: Target, recorder: Recorder, width: int, grace: float) -> None:
        self._target = target
        self._recorder = recorder
        self._width = width
        self._grace = grace
        self._open: set[Ticket] = set()
        self._count = 0
        self._begin = 0.0
        self._until = 0.0
        self._last_sent = False
        self._finished = asyncio.Event()

    async def play(self, times: Iterator[float]) -> None:
        await self._target.open(self._answered, self._width)
        all_sent = asyncio.Event()
        upcoming = next(times, None)

        def turn() -> None:
            nonlocal upcoming
            now = time.perf_counter() - self._begin
            while upcoming is not None and upcoming <= now:
                self._send(upcoming)
                upcoming = next(times, None)
            if upcoming is None:
                all_sent.set()
            else:
                alarm.set(upcoming - (time.perf_counter() - self._begin))

        alarm = Alarm(asyncio.get_running_loop(), turn)
        self._begin = time.perf_counter()
        try:
            turn()
            await all_sent.wait()
            await self._drain()
        finally:
            alarm.close()
            await self._target.close()

    async def keep(self, callers: int, duration: float) -> None:
        await self._target.open(self._answered, self._width)
        try:
            self._begin = time.perf_counter()
            self._until = duration
            for _ in range(callers):
                self._send(0.0)
            await asyncio.sleep(duration)
            await self._drain()
        finally:
            await self._target.close()

    def _send(self, due: float) -> None:
        ticket = Ticket(self._count, due)
        self._count += 1
        self._open.add(ticket)
        self._target.send(ticket)

    def _answered(self, ticket: Ticket, outcome: Outcome) -> None:
        if ticket not in self._open:
            return
        now = self._record(ticket, outcome)
        if now < self._until:
            self._send(now)
        elif self._last_sent and not self._open:
            self._finished.set()

    def _record(self, ticket: Ticket, outcome: Outcome) -> float:
        self._open.discard(ticket)
        finished = time.perf_counter() - self._begin
        sent = ticket.sent - self._begin if ticket.sent else finished
        self._recorder.record(ticket.due, sent, finished, outcome)
        return finished

    async def _drain(self) -> None:
        self._last_sent = True
        if self._open:
            try:
                await asyncio.wait_for(self._finished.wait(), self._grace)
            except TimeoutError:
                for ticket in list(self._open):
                    self._record(ticket, Outcome.FAILED)
