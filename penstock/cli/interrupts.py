"""Ctrl-C in commands that are not servers: they clean up, say so in one line, and end within two seconds with code 130.

A thread that waits for a server cannot be interrupted, and Python would wait for it: `END_WITHIN` after the signal the process ends
without it. A second signal ends it at once. Servers have `protocol.runtime.loop`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Coroutine
from types import FrameType
from typing import Any, Final, TypeVar

T = TypeVar("T")

END_WITHIN: Final = 1.5
"""Seconds that a command gets to clean up."""

_handled: list[int] = []
"""The signals that `handle` was called for; empty where this process is not ours to end, as in a test."""
_asked: list[int] = []
"""The signals that came."""
_words: list[str] = ["interrupted"]


def handle(*numbers: int) -> None:
    """From now on these signals raise KeyboardInterrupt, and then the process ends."""
    for number in numbers:
        _handled.append(number)
        signal.signal(number, _interrupt)


def also(number: int) -> None:
    """Handle this signal, too, if `handle` was called."""
    if _handled:
        handle(number)


def asked() -> bool:
    """Whether a signal came."""
    return bool(_asked)


def end(say: str = "") -> None:
    """End the process now, without waiting for its threads."""
    if say:
        _words[:] = [say]
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"penstock: {_words[0]}\n")
        sys.stderr.flush()
    os._exit(128 + _asked[0] if _asked else 130)


def begin(number: int, say: str = "") -> None:
    """A signal came, and the command has begun to clean up; it is given `END_WITHIN` seconds, or no more if it is the second one.

    Args:
        number: of the signal.
        say: the last line if the time is over first.
    """
    if not _handled:
        return
    if say:
        _words[:] = [say]
    _asked.append(number)
    if len(_asked) > 1:
        end()
    threading.Thread(target=_end_later, name="end", daemon=True).start()


def _end_later() -> None:
    time.sleep(END_WITHIN)
    end()


def _interrupt(number: int, frame: FrameType | None) -> None:
    begin(number)
    raise KeyboardInterrupt


def run(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`: a signal cancels the coroutine.

    Raises:
        KeyboardInterrupt: a signal came.
    """
    import asyncio  # here, because `penstock --version` needs none

    if not _handled:
        return asyncio.run(main)
    guarded = _guarded(main)
    try:
        with asyncio.Runner() as runner:
            return runner.run(guarded)
    finally:
        guarded.close()  # if the signal came before it was begun
        main.close()


async def _guarded(main: Coroutine[Any, Any, T]) -> T:
    import asyncio

    loop, work = asyncio.get_running_loop(), asyncio.current_task()
    assert work is not None

    def on_signal(number: int) -> None:
        begin(number)
        work.cancel()

    for number in _handled:
        loop.add_signal_handler(number, on_signal, number)
    try:
        return await main
    except asyncio.CancelledError:
        if _asked:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number in _handled:
            loop.remove_signal_handler(number)
            signal.signal(number, _interrupt)
