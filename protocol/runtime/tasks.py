"""Background tasks: work that nobody awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

import structlog

from protocol.errors import FleetError

T = TypeVar("T")

CANCEL_AGAIN_AFTER: Final = 1.0
"""Seconds after which a task that has not ended is cancelled again: a library in between may have swallowed the cancellation."""

_RESTART_AFTER: Final = 0.2
_RESTART_AT_MOST: Final = 5.0
"""Seconds between the end of a loop and its next start: at first, and as they double; a loop that ran for longer begins anew."""

_log = structlog.get_logger(__name__)


class BackgroundTasks:
    """The background tasks of one owner. Each is kept until it ends; an error that it raises is logged.

    Args:
        owner: its name in the log.
        about: further fields of the log entry.
    """

    def __init__(self, owner: str, **about: object) -> None:
        self._owner = owner
        self._about = about
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(tuple(self._tasks))

    def spawn(self, work: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
        """Run the work as a task of the running loop."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def cancel(self) -> None:
        """Cancel all of them; returns before they have ended."""
        for task in self:
            task.cancel()

    async def join(self) -> None:
        """Wait until all of them have ended, including those that start meanwhile."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Cancel all of them, including those that start meanwhile, and wait until they have ended."""
        while self._tasks:
            self.cancel()
            await asyncio.wait(self._tasks, timeout=CANCEL_AGAIN_AFTER)

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error(
                "a background task failed", owner=self._owner, task=task.get_name(), exc_info=error, **self._about
            )


async def run_forever(
    name: str, run: Callable[[], Awaitable[None]], on_end: Callable[[str], None] = lambda problem: None
) -> None:
    """Run a loop, and start it again after a pause whenever it ends.

    Args:
        name: of the loop, in the log.
        run: does not return while all is well.
        on_end: called with the reason each time.
    """
    loop, pause = asyncio.get_running_loop(), _RESTART_AFTER
    while True:
        started = loop.time()
        try:
            await run()
            problem = "it returned"
        except FleetError as error:
            problem = error.message
            _log.warning("background task failed", task=name, error=problem)
        except Exception as error:
            problem = repr(error)
            _log.exception("background task failed", task=name)
        on_end(problem)
        pause = _RESTART_AFTER if loop.time() - started > _RESTART_AT_MOST else min(2 * pause, _RESTART_AT_MOST)
        await asyncio.sleep(pause)
