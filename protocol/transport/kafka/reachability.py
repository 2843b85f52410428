"""Says once that Kafka is away, and once that it is back. aiokafka says it every second, for each broker and each thing it does.

Whether it is away is asked when aiokafka complains: nothing is asked of a Kafka that nobody complains about.
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
"""Questions without an answer, one after the other, after which it is said: one of several brokers may be away."""
PAUSE: Final = 1.0


class Reachability(logging.Handler):
    """Hears what aiokafka logs while the bus is open.

    Args:
        where: the brokers.
        healthy: whether one of them answers now; it takes its time.
    """

    def __init__(self, where: str, healthy: Callable[[], Awaitable[bool]]) -> None:
        super().__init__(logging.WARNING)
        self._where = where
        self._healthy = healthy
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asking: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to listen."""
        self._loop = asyncio.get_running_loop()
        logging.getLogger(LIBRARY).addHandler(self)

    def close(self) -> None:
        """Stop; nothing more is said."""
        logging.getLogger(LIBRARY).removeHandler(self)
        if self._asking is not None:
            self._asking.cancel()
        self._loop = None
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """A library complains: see whether Kafka is there."""
        if self._loop is not None and self._asking is None and not self._loop.is_closed():
            self._asking = self._loop.create_task(self._ask())
            self._asking.add_done_callback(self._asked)

    def _asked(self, asking: asyncio.Task[None]) -> None:
        self._asking = None
        if not asking.cancelled() and (error := asking.exception()) is not None:
            log.error("asking Kafka at %s failed", self._where, exc_info=error)

    async def _ask(self) -> None:
        for _ in range(CONFIRMED_BY):
            if await self._healthy():
                return
        began = asyncio.get_running_loop().time()
        log.error("Kafka at %s does not answer; it is tried until it does", self._where)
        logs.silent[LIBRARY] += 1
        try:
            while not await self._healthy():  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(PAUSE)
        finally:
            logs.silent[LIBRARY] -= 1
        log.warning("Kafka at %s answers again, after %.0f s", self._where, asyncio.get_running_loop().time() - began)
