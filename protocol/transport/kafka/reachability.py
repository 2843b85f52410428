"""Logs once that Kafka is unreachable, and once that it is back. aiokafka logs it every second, for each broker and each task.

Kafka is asked only after aiokafka has logged a warning.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from protocol.runtime import logs

log = logging.getLogger("penstock.kafka")

LIBRARY: Final = "aiokafka"
CONFIRMED_BY: Final = 2
"""Consecutive failed checks after which it is logged: one of several brokers may be down."""
PAUSE: Final = 1.0


class Reachability(logging.Handler):
    """A handler of aiokafka's warnings while the bus is open.

    Args:
        where: the brokers.
        healthy: whether one of them answers now; waits for the answer.
    """

    def __init__(self, where: str, healthy: Callable[[], Awaitable[bool]]) -> None:
        super().__init__(logging.WARNING)
        self._where = where
        self._healthy = healthy
        self._loop: asyncio.AbstractEventLoop | None = None
        self._check: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Add the handler."""
        self._loop = asyncio.get_running_loop()
        logging.getLogger(LIBRARY).addHandler(self)

    def close(self) -> None:
        """Remove the handler."""
        logging.getLogger(LIBRARY).removeHandler(self)
        if self._check is not None:
            self._check.cancel()
        self._loop = None
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """aiokafka has warned: check whether Kafka answers."""
        if self._loop is not None and self._check is None and not self._loop.is_closed():
            self._check = self._loop.create_task(self._check_brokers())
            self._check.add_done_callback(self._on_checked)

    def _on_checked(self, check: asyncio.Task[None]) -> None:
        self._check = None
        if not check.cancelled() and (error := check.exception()) is not None:
            log.error("the check of Kafka at %s failed", self._where, exc_info=error)

    async def _check_brokers(self) -> None:
        for _ in range(CONFIRMED_BY):
            if await self._healthy():
                return
        began = asyncio.get_running_loop().time()
        log.error("Kafka at %s does not answer; retrying until it does", self._where)
        logs.silent[LIBRARY] += 1
        try:
            while not await self._healthy():  # noqa: ASYNC110  # there is no event to wait for
                await asyncio.sleep(PAUSE)
        finally:
            logs.silent[LIBRARY] -= 1
        log.warning("Kafka at %s answers again, after %.0f s", self._where, asyncio.get_running_loop().time() - began)
