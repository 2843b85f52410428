"""Says in the log, every few seconds, that a model is still loading: importing a framework and reading weights may take minutes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from protocol.runtime.repeats import next_report

log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def reporting(
    model: str,
    version: str,
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    step: Callable[[], str] = lambda: "",
) -> AsyncIterator[None]:
    """Log lines while the block runs.

    Args:
        model, version: what is loaded.
        clock: seconds.
        sleep: waits for so many of them.
        step: what is being done now; "" for reading and loading.
    """
    began = clock()

    async def report() -> None:
        due = 0.0
        while True:
            due = next_report(max(due, elapsed := clock() - began))  # a sleep may end a moment early
            await sleep(due - elapsed)
            doing = step()
            log.info(
                f"still loading {model} ({due:.0f} s)" + (f": {doing}" if doing else ""), model=model, version=version
            )

    task = asyncio.get_running_loop().create_task(report(), name=f"still loading {model}")
    try:
        yield
    finally:
        task.cancel()
