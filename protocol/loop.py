"""What every process of the fleet does around its event loop: run on uvloop, be told to stop, spare the garbage collector."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import signal
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end."""
    if importlib.util.find_spec("uvloop") is None:
        return asyncio.run(main)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


@contextlib.contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """An event that every SIGTERM and SIGINT sets while the block lasts; afterwards they do what they always do."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, asked.set)
    try:
        yield asked
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def spare_collector() -> None:
    """Have the garbage collector pass over what is there now and look less often; call it once everything is imported.

    Where it was disabled before, as for a start, it works from now on. What is imported is no garbage (0.1 % of it is): to look
    through it again and again is a tenth of what importing takes, so it is not looked through here either.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    gc.enable()
