"""What the workers are done with: the rule by which a lost answer is noticed, and the offsets that it needs.

The rule: a group commits an offset only when every record below it has its end in the store. So whoever reads the committed offset
*first*, sees that it is above a request's record, and *then* finds no end in the store, knows that there was one and that it is
lost, as after a restart or a failover of Redis. The request is then published again from the log; the first terminal wins.

Invariant: the broker is asked only for requests older than `recover_after`, and once per `offsets_max_age` and topic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog

from protocol.errors import FleetError
from protocol.ports import Bus, Place

_PATIENCE: Final = 3.0

_log = structlog.get_logger("gateway.calls.positions")


def is_below(place: Place, committed: Mapping[int, int]) -> bool:
    """Whether a record is done with."""
    partition, offset = place
    return offset < committed.get(partition, 0)


class Positions:
    """Committed offsets of the groups that serve, cached. The group of a topic has its name.

    Args:
        max_age: seconds for which committed offsets are reused.
    """

    def __init__(self, bus: Bus, max_age: float = 1.0) -> None:
        self._bus = bus
        self._max_age = max_age
        self._readings: dict[str, tuple[float, asyncio.Task[Mapping[int, int]]]] = {}

    async def passed(self, topic: str, place: Place) -> bool:
        """Whether the record there is done with; False also where nobody can say so now."""
        return is_below(place, await self.committed(topic))

    async def committed(self, topic: str) -> Mapping[int, int]:
        """By partition; nothing where the broker does not say."""
        loop = asyncio.get_running_loop()
        began, reading = self._readings.get(topic, (float("-inf"), None))
        if reading is None or loop.time() - began >= self._max_age:
            reading = loop.create_task(self._read(topic))
            self._readings[topic] = (loop.time(), reading)
        return await asyncio.shield(reading)

    async def _read(self, topic: str) -> Mapping[int, int]:
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._bus.committed(topic, topic)
        except (FleetError, TimeoutError) as error:
            _log.warning("committed offsets could not be read", topic=topic, error=str(error))
            return {}
