"""Hints that a request was accepted for a model without a live worker, so that a scaler starts one at once.

A hint is sent after the broker's acknowledgement, at most once per `EVERY` and topic. It may be lost: scalers also read the logs.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from gateway.catalogue.catalogue import Served
from protocol.errors import FleetError
from protocol.ports import Directory
from protocol.runtime.tasks import BackgroundTasks

EVERY: Final = 0.2
"""Seconds between two hints about one topic."""

_log = structlog.get_logger("gateway.calls.waiting")


class WaitingHints:
    """Sends the hints of one gateway.

    Args:
        directory: carries them.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._expected: dict[str, None] = {}
        self._sent: dict[str, float] = {}
        self._loop = asyncio.get_running_loop()
        self._tasks = BackgroundTasks("waiting hints")

    def expect(self, served: Served) -> None:
        """Note that a call may be published for this version, which has no live worker."""
        self._expected[served.topic] = None
        self._expected[served.batch.topic] = None

    def published(self, topic: str) -> None:
        """Note that records of this topic were acknowledged."""
        if topic not in self._expected:
            return
        del self._expected[topic]
        now = self._loop.time()
        if now - self._sent.get(topic, -EVERY) >= EVERY:
            self._sent[topic] = now
            self._tasks.spawn(self._send(topic))

    async def close(self) -> None:
        """Send no more."""
        await self._tasks.close()

    async def _send(self, topic: str) -> None:
        try:
            await self._directory.hint_waiting(topic)
        except FleetError as error:
            _log.info("scalers learn of a waiting request from the log", topic=topic, error=error.message)
