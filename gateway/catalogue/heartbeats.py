"""Heartbeats on request: workers beat twice a second, and answer at once when they are polled.

Invariants: a poll returns heartbeats made after it was called, of every live worker that answers within `WITHIN`, and the last
known ones of the others; at most one poll is in flight, however many callers wait. Workers make statistics only for a poll that
somebody needs them of.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable
from typing import Final

from protocol.heartbeat_parts import Loads
from protocol.messages import Heartbeat
from protocol.ports import STATE_ONLY, Directory

WITHIN: Final = 1.0
"""Seconds that a worker may take to answer."""
PAUSE: Final = 0.03
"""Seconds between two polls."""
_LOOK: Final = (0.002, 0.05)


class HeartbeatPoller:
    """Polls the workers for their heartbeats.

    Args:
        directory: of the workers.
        clock: the fleet's.
        live: seconds after its last heartbeat for which a worker counts as live.
    """

    def __init__(self, directory: Directory, clock: Callable[[], float], live: float) -> None:
        self._directory = directory
        self._clock = clock
        self._live = live
        self._asking: asyncio.Task[list[Heartbeat]] | None = None
        self._next: asyncio.Task[list[Heartbeat]] | None = None
        self._statistics = False

    async def poll(self, *, statistics: bool = False) -> list[Heartbeat]:
        """A heartbeat of every worker in the directory.

        Args:
            statistics: with those of its models, from every worker that answers.

        Raises:
            Unavailable: the directory cannot be reached.
        """
        self._statistics = self._statistics or statistics
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._after(self._asking))
            self._next.add_done_callback(_seen)  # the caller may have gone
        return await asyncio.shield(self._next)

    async def close(self) -> None:
        """Stop polling."""
        tasks = [task for task in (self._asking, self._next) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _after(self, former: asyncio.Task[list[Heartbeat]] | None) -> list[Heartbeat]:
        if former is not None and not former.done():
            await asyncio.wait([former])
            await asyncio.sleep(PAUSE)
        self._asking, self._next = self._next, None  # a later caller may know of events that this poll misses
        return await self._ask()

    async def _ask(self) -> list[Heartbeat]:
        ask = secrets.token_hex(8) + ("" if self._statistics else STATE_ONLY)
        self._statistics = False
        since, loop = self._clock() - self._live, asyncio.get_running_loop()
        beats = {beat.worker: beat for beat in await self._directory.workers()}
        waiting = {beat.worker for beat in beats.values() if beat.asked is not None and beat.at >= since}
        if waiting:
            await self._directory.ask(ask)
        end = loop.time() + WITHIN
        pause, longest = _LOOK
        while waiting:
            for beat in await self._directory.answers(waiting):
                if ask in (beat.asked or ()):
                    beats[beat.worker] = beat
                    waiting.discard(beat.worker)
            if not waiting or loop.time() > end:
                break
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
        return list(beats.values())


def is_sound(beat: Heartbeat) -> bool:
    """Whether names and times in a heartbeat are of their types. The codec passes on whatever a worker sends."""
    if isinstance(beat.models, Loads):
        return True  # its reader has made sure of it
    named = isinstance(beat.worker, str) and all(
        isinstance(load.model, str) and isinstance(load.version, str) for load in beat.models
    )
    return named and isinstance(beat.at, int | float) and math.isfinite(beat.at)


def _seen(task: asyncio.Task[list[Heartbeat]]) -> None:
    if not task.cancelled():
        task.exception()
