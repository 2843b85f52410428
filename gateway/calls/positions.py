"""Committed offsets of the workers' groups, and the rule that detects a lost answer.

The rule: a group commits an offset only when every record below it has its terminal in the store. If the committed offset, read
*first*, is above a request's record, and the store, read *after* it, has no terminal, then there was one and it is lost, as after a
restart or a failover of Redis. The request is then published again from the log; the first terminal wins.

Invariant: the broker is asked only for requests older than `recover_after`, and once per `offsets_max_age` and topic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog

from protocol.errors import FleetError
from protocol.ports import Bus, Place

_READ_TIMEOUT: Final = 3.0

_log = structlog.get_logger("gateway.calls.positions")


def is_below(place: Place, committed: Mapping[int, int]) -> bool:
    """Whether a record is below the committed offset of its partition."""
    partition, offset = place
    return offset < committed.get(partition, 0)


class Positions:
    """Committed offsets per topic, cached. The group of a topic has the topic's name.

    Args:
        max_age: seconds for which committed offsets are reused.
    """

    def __init__(self, bus: Bus, max_age: float = 1.0) -> None:
        self._bus = bus
        self._max_age = max_age
        self._readings: dict[str, tuple[float, asyncio.Task[Mapping[int, int]]]] = {}

    async def passed(self, topic: str, place: Place) -> bool:
        """Whether the record at this place is committed; False if the broker does not answer."""
        return is_below(place, await self.committed(topic))

    async def committed(self, topic: str) -> Mapping[int, int]:
        """Committed offsets by partition; empty if the broker does not answer."""
        loop = asyncio.get_running_loop()
        began, reading = self._readings.get(topic, (float("-inf"), None))
        if reading is None or loop.time() - began >= self._max_age:
            reading = loop.create_task(self._read(topic))
            self._readings[topic] = (loop.time(), reading)
        return await asyncio.shield(reading)

    async def _read(self, topic: str) -> Mapping[int, int]:
        try:
            async with asyncio.timeout(_READ_TIMEOUT):
                return await self._bus.committed(topic, topic)
        except (FleetError, TimeoutError) as error:
            _log.warning("committed offsets could not be read", topic=topic, error=str(error))
            return {}
