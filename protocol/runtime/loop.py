"""What every process of the fleet does around its event loop: run on uvloop, stop on signals, spare the garbage collector.

How a process ends: SIGTERM comes from its manager and leaves the whole grace period to answer requests in flight. SIGINT comes from
a person at a terminal: requests in flight get `QUICK` seconds, and the process is gone after `END_WITHIN`, because a thread that
loads a model or waits for a server cannot be interrupted. A process that gets either signal before it is ready has no requests
in flight, and ends within the same time. SIGHUP, of a terminal that is closed, counts as SIGTERM, unless nohup has it ignored.
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
from typing import Any, Final, NoReturn, TypeVar

T = TypeVar("T")

QUICK: Final = 1.0
"""Seconds that requests in flight get after SIGINT."""
END_WITHIN: Final = 1.7
"""Seconds after SIGINT within which a process ends."""

CLOSED_WITHIN: Final = 10.0
"""Seconds within which a process must be gone once it has answered everything and closed its connections."""

_END: Final = "end"

_guarded: list[float] = []
"""Seconds that the end of this process may take; empty if the process is not ours to end, as in a test."""
_closing: list[int] = []
"""The signal by which this process ends, once that is certain."""


class StopEvent(asyncio.Event):
    """Set once a signal asks this process to end.

    Attributes:
        ready: whether the process may have requests in flight.
        interrupted: whether SIGINT came.
        number: of the last signal; 0 for none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ready = True
        self.interrupted = False
        self.number = 0

    def on_signal(self, number: int) -> None:
        """Handle a signal."""
        self.number = number
        self.interrupted = self.interrupted or number == signal.SIGINT
        if self.interrupted or not self.ready:
            end_soon(number)
        self.set()

    def grace(self, usual: float) -> float:
        """Seconds that requests in flight get."""
        return min(usual, QUICK) if self.interrupted else usual


def run(main: Coroutine[Any, Any, T], end_within: float = END_WITHIN) -> T:
    """Run the coroutine to its end. This call owns the process meanwhile: see the module's docstring."""
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
    """An event that `stopping` signals set while the block lasts; afterwards they have their default effect, or, if the process
    is ending, none."""
    loop, asked = asyncio.get_running_loop(), StopEvent()
    numbers = stopping()
    for number, meant in numbers.items():
        loop.add_signal_handler(number, asked.on_signal, meant)
    try:
        yield asked
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
            if _guarded:
                signal.signal(number, signal.SIG_DFL)
        if asked.number:
            end_soon(asked.number, CLOSED_WITHIN)


def stopping() -> dict[int, int]:
    """The signals that end a process in order, and the one that each is treated as."""
    numbers: dict[int, int] = {signal.SIGTERM: signal.SIGTERM, signal.SIGINT: signal.SIGINT}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        numbers[signal.SIGHUP] = signal.SIGTERM
    return numbers


def pass_signals_on(stop: Callable[[int], None]) -> None:
    """Call `stop` from now on with the number that each of the `stopping` signals is treated as; SIGINT also ends the process
    within its time."""

    def on_signal(number: int) -> None:
        if number == signal.SIGINT:
            end_soon(number)
        stop(number)

    loop = asyncio.get_running_loop()
    for number, meant in stopping().items():
        loop.add_signal_handler(number, on_signal, meant)


async def until(asked: asyncio.Event, work: Coroutine[Any, Any, None], seconds: float | None = None) -> bool:
    """Do the work, but cancel it when the event is set or the time is over first; returns whether it was done.

    Raises:
        Exception: as the work.
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
    """End the process by this signal within its time, even if it hangs: then with a shell's exit code for the signal."""
    if _guarded and not _closing:
        _closing.append(number)
        within = _guarded[0] if seconds is None else seconds
        threading.Thread(target=_end, args=(within, number), name=_END, daemon=True).start()


def _end(seconds: float, number: int) -> None:
    time.sleep(seconds)
    sys.stderr.write(
        f"penstock: ended by {signal.Signals(number).name} after {seconds} s, without waiting for what still ran: a request, or "
        "a model that loads\n"
    )
    sys.stderr.flush()
    os._exit(128 + number)


def leave(code: int) -> NoReturn:
    """Exit with this code.

    After a signal a thread may still load or run a model, in a library that crashes when the interpreter is taken down around it:
    then the interpreter is left as it is.
    """
    if _closing and any(thread.daemon and thread.name != _END for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def spare_collector() -> None:
    """Exclude existing objects from garbage collection, and collect less often; call it once everything is imported.

    Enables the collector if it was disabled for the start. Imported objects are hardly ever garbage (0.1 %), and traversing them
    takes a tenth of the import's time, so they are not collected here either.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    gc.enable()
