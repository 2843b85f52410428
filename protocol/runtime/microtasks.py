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

    __slots__ = ("_running", "_scheduled", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self._scheduled = False
        self._running = False

    def add(self, work: Callable[..., object], *arguments: object) -> None:
        """Call `work` once the code that runs now has returned: in this turn of the loop if `run` is called, else in the next."""
        self._waiting.append((work, arguments))
        if not self._scheduled and not self._running:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._on_turn)

    def run(self) -> None:
        """Do all work that waits, and the work that it adds. Call it at the end of a callback of the loop; elsewhere it may run
        one part inside another. While it runs it does nothing."""
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
            if self._waiting and not self._scheduled:
                self._scheduled = True
                asyncio.get_running_loop().call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self._scheduled = False
        self.run()


def _report(error: Exception) -> None:
    asyncio.get_running_loop().call_exception_handler({"message": "a microtask failed", "exception": error})
