"""How a process of the fleet serves: it starts, waits for a signal, drains and closes. `loop` says how long that may take."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from protocol.runtime.loop import QUICK, StopEvent, stop_signals, until

_log = structlog.get_logger(__name__)


async def _drained(_: StopEvent) -> None:
    """Nothing is in flight."""


async def serve(
    start: Callable[[], Coroutine[Any, Any, None]],
    close: Callable[[], Coroutine[Any, Any, None]],
    *started: Callable[[], None],
    drain: Callable[[StopEvent], Coroutine[Any, Any, None]] = _drained,
    **about: str,
) -> None:
    """Start, serve until a signal ends the process, then drain and close. A signal during the start cancels it.

    Args:
        start: begins to serve; one that fails or is cancelled leaves nothing to close.
        close: ends what `start` began.
        started: called in this order once it serves.
        drain: answers the requests in flight; cancelled by a second signal, or `QUICK` seconds after SIGINT.
        about: fields of the log's lines.

    Raises:
        Exception: as `start`.
    """
    with stop_signals() as asked:
        asked.ready = False
        asked.ready = await until(asked, start())
        if not asked.ready:
            _log.info("stopped by a signal before everything was loaded", **about)
            return
        try:
            for call in started:
                call()
            await asked.wait()
            asked.clear()
            if not await until(asked, drain(asked), QUICK if asked.interrupted else None):
                _log.info("not everything was answered", **about)
        finally:
            await close()
        _log.info("stopped", **about)
