"""Work that follows in the same turn of the event loop: as `loop.call_soon`, without a poll of all sockets in between.

A request in one process passes from part to part: log, batcher, store, caller. A turn of the loop for each step would cost a system
call each, and a direct call would run one part in the middle of another.

Invariants: work never runs inside the code that added it, and runs in the order in which it was added; an error of one does not
stop the others; after `ROUNDS` rounds the loop gets its turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

ROUNDS: Final = 16
"""Rounds of one `run`: a request passes through about six."""


class Microtasks:
    """The microtasks of the parts that share an event loop."""

    __slots__ = ("_loop", "_running", "_scheduled", "_waiting")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self._scheduled = False
        self._running = False

    def add(self, work: Callable[..., object], *arguments: object) -> None:
        """Call `work` once the code that runs now has returned: in this turn of the loop if that runs under `call`, else in the
        next."""
        self._waiting.append((work, arguments))
        if not self._running:
            self._schedule()

    def call(self, work: Callable[..., object], *arguments: object) -> None:
        """Do this work as a callback of the loop, and all that follows from it in the same turn."""
        self._waiting.append((work, arguments))
        self.run()

    def run(self) -> None:
        """Do all work that waits, and the work that it adds; nothing while that runs. Only a callback of the loop may call this:
        elsewhere one part would run inside another."""
        if self._running or not self._waiting:
            return
        self._running = True
        try:
            for _ in range(ROUNDS):
                work, self._waiting = self._waiting, []
                for each, arguments in work:
                    try:
                        each(*arguments)
                    except Exception as exc:
                        _report(exc)
                if not self._waiting:
                    break
        finally:
            self._running = False
            if self._waiting:
                self._schedule()

    def _schedule(self) -> None:
        if self._scheduled:
            return
        self._scheduled = True
        if self._loop is None:  # asked once: in Python 3.11 asking is a system call
            self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self._scheduled = False
        self.run()


def _report(error: Exception) -> None:
    asyncio.get_running_loop().call_exception_handler({"message": "a microtask failed", "exception": error})
