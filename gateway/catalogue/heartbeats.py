"""Heartbeats that are newer than the question: workers beat twice a second by themselves, and at once when they are asked.

Invariants: whoever asks gets heartbeats that were made after he asked, of every live worker that can be asked and answers within
`WITHIN`, and the last ones of the others; at most one question is on its way at a time, however many callers wait.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final

from protocol.messages import Heartbeat
from protocol.ports import Directory

WITHIN: Final = 1.0
"""Seconds that a worker may take to answer; one that hangs is not waited for any longer."""
PAUSE: Final = 0.03
"""Seconds between two questions."""
_LOOK: Final = (0.002, 0.05)


class HeartbeatPoller:
    """The workers' heartbeats, asked for.

    Args:
        directory: where they are.
        clock: the fleet's.
        live: seconds since its last heartbeat in which a worker counts as live.
    """

    def __init__(self, directory: Directory, clock: Callable[[], float], live: float) -> None:
        self._directory = directory
        self._clock = clock
        self._live = live
        self._asking: asyncio.Task[list[Heartbeat]] | None = None
        self._next: asyncio.Task[list[Heartbeat]] | None = None

    async def poll(self) -> list[Heartbeat]:
        """Of every worker that the directory knows.

        Raises:
            Unavailable: the directory cannot be reached.
        """
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._after(self._asking))
            self._next.add_done_callback(_seen)  # whoever asked may have gone meanwhile
        return await asyncio.shield(self._next)

    async def close(self) -> None:
        """Ask no more."""
        tasks = [task for task in (self._asking, self._next) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _after(self, former: asyncio.Task[list[Heartbeat]] | None) -> list[Heartbeat]:
        if former is not None and not former.done():
            await asyncio.wait([former])
            await asyncio.sleep(PAUSE)
        self._asking, self._next = self._next, None  # whoever comes from here on may know of more than this will count
        return await self._ask()

    async def _ask(self) -> list[Heartbeat]:
        since = self._clock() - self._live
        asked = {beat.worker for beat in await self._directory.workers() if beat.asked is not None and beat.at >= since}
        ask, loop = secrets.token_hex(8), asyncio.get_running_loop()
        if asked:
            await self._directory.ask(ask)
        end = loop.time() + WITHIN
        pause, longest = _LOOK
        while True:
            beats = await self._directory.workers()
            waiting = [beat for beat in beats if beat.worker in asked and ask not in (beat.asked or ())]
            if not waiting or loop.time() > end:
                return beats
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)


def _seen(task: asyncio.Task[list[Heartbeat]]) -> None:
    if not task.cancelled():
        task.exception()
