"""What every process of the fleet does around its event loop: run on uvloop, be told to stop, spare the garbage collector.

How a process ends. SIGTERM comes from whoever manages it and gives it its whole grace to answer what is in flight. SIGINT comes
from a person at a terminal: `QUICK` seconds for that, and `END_WITHIN` until the process is gone, whatever still runs in it, for a
thread that loads a model or waits for a server cannot be interrupted. A process that is told to end by either before it is ready
has nothing to answer and ends within the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

T = TypeVar("T")

QUICK: Final = 1.0
"""Seconds that what is in flight gets after SIGINT."""
END_WITHIN: Final = 1.7
"""Seconds after SIGINT in which a process ends, at the latest."""

CLOSED_WITHIN: Final = 10.0
"""Seconds in which a process must be gone that has answered everything and closed what it had."""

_guarded: list[float] = []
"""How long the end of this process may take; empty where it is not ours to end, as in a test."""
_closing: list[int] = []
"""The signal that this process ends by, once that is certain."""


class StopEvent(asyncio.Event):
    """Set once this process is told to end.

    Attributes:
        ready: it has something to answer.
        interrupted: by SIGINT.
        number: of the last signal; 0 for none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ready = True
        self.interrupted = False
        self.number = 0

    def on_signal(self, number: int) -> None:
        """This signal came."""
        self.number = number
        self.interrupted = self.interrupted or number == signal.SIGINT
        if self.interrupted or not self.ready:
            end_soon(number)
        self.set()

    def grace(self, usual: float) -> float:
        """Seconds that what is in flight gets."""
        return min(usual, QUICK) if self.interrupted else usual


def run(main: Coroutine[Any, Any, T], end_within: float = END_WITHIN) -> T:
    """Run to the end. The process belongs to this call while it lasts: see the top of this file."""
    _guarded[:] = [end_within]
    try:
        with asyncio.Runner(loop_factory=_new_loop()) as runner:
            return runner.run(main)
    finally:
        _guarded.clear()


def _new_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop


@contextlib.contextmanager
def stop_signals() -> Iterator[StopEvent]:
    """An event that every SIGTERM and SIGINT sets while the block lasts; afterwards they do what they always do, or, where the
    process ends, no harm."""
    loop, asked = asyncio.get_running_loop(), StopEvent()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, asked.on_signal, number)
    try:
        yield asked
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
            if _guarded:
                signal.signal(number, signal.SIG_DFL)
        if asked.number:
            end_soon(asked.number, CLOSED_WITHIN)


async def until(asked: asyncio.Event, work: Coroutine[Any, Any, None], seconds: float | None = None) -> bool:
    """Do the work, or leave it when the event is set first or the time is over; whether it was done.

    Raises:
        Exception: whatever the work raises.
    """
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(asked.wait())]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        done = tasks[0].done()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(results[0], Exception):
        raise results[0]
    return done


def end_soon(number: int, seconds: float | None = None) -> None:
    """This signal ends the process within its time, also where it hangs: then its exit code is a shell's for the signal."""
    if _guarded and not _closing:
        _closing.append(number)
        within = _guarded[0] if seconds is None else seconds
        threading.Thread(target=_end, args=(within, number), name="end", daemon=True).start()


def _end(seconds: float, number: int) -> None:
    time.sleep(seconds)
    sys.stderr.write(
        f"penstock: ended by {signal.Signals(number).name}; something did not end in {seconds} s and was left\n"
    )
    sys.stderr.flush()
    os._exit(128 + number)


def spare_collector() -> None:
    """Have the garbage collector pass over what is there now and look less often; call it once everything is imported.

    Where it was disabled before, as for a start, it works from now on. What is imported is no garbage (0.1 % of it is): to look
    through it again and again is a tenth of what importing takes, so it is not looked through here either.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    gc.enable()
