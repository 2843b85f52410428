"""Calls that may wait for ever, in threads that the process's end does not wait for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def apart(call: Callable[[], T]) -> asyncio.Future[T]:
    """Make the call in a thread of its own; the future has its result."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(found: list[T], error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(found[0])

    def work() -> None:
        found: list[T] = []
        error: BaseException | None = None
        try:
            found.append(call())
        except BaseException as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, found, error)

    threading.Thread(target=work, name="apart", daemon=True).start()
    return future
