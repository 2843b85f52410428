"""Faults between a process and a server, decided by one seeded source, so that a seed determines everything that happens."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import TypeVar

from protocol.errors import FleetError, Unavailable
from tests.simulation.loop import OUTSIDE, PROCESS, VirtualLoop

T = TypeVar("T")

EPOCH = 1_700_000_000.0


@dataclasses.dataclass
class Weather:
    """The state of the network and its servers.

    Attributes:
        dice: decides everything that is not in the plan.
        down: servers that do not answer.
        refused, lost: share of calls that fail before, or after they were executed.
        late: share of failed publishes that are appended after all, seconds later.
        doubled: share of publishes that are appended twice.
        wakes_lost, wakes_doubled: share of wake-up messages.
        slow: factor on every latency.
        redis: "up", "oom" or "readonly".
    """

    dice: random.Random
    down: set[str] = dataclasses.field(default_factory=set)
    refused: float = 0.0
    lost: float = 0.0
    late: float = 0.0
    doubled: float = 0.0
    wakes_lost: float = 0.0
    wakes_doubled: float = 0.0
    slow: float = 1.0
    redis: str = "up"

    def happens(self, share: float) -> bool:
        return share > 0 and self.dice.random() < share

    def latency(self) -> float:
        return self.dice.choice((0.0002, 0.0005, 0.001, 0.004)) * self.slow

    def clear(self) -> None:
        """The faults are over."""
        self.down.clear()
        self.refused = self.lost = self.late = self.doubled = self.wakes_lost = self.wakes_doubled = 0.0
        self.slow, self.redis = 1.0, "up"


class Network:
    """Calls from processes to servers."""

    def __init__(self, loop: VirtualLoop, weather: Weather) -> None:
        self.loop = loop
        self.weather = weather

    def reachable(self, server: str) -> bool:
        """Whether the calling process reaches the server."""
        process = PROCESS.get(None)
        return server not in self.weather.down and (process is None or server not in process.cut)

    async def call(self, server: str, do: Callable[[], T]) -> T:
        """Have the server do it, and wait for its answer; each way takes time, during which anything may happen.

        Raises:
            Unavailable: the server was not reached, or its answer was lost.
        """
        weather, loop = self.weather, self.loop
        reply = loop.create_future()
        process = PROCESS.get()
        fails, loses = weather.happens(weather.refused), weather.happens(weather.lost)

        def arrive() -> None:
            if server in weather.down or server in process.cut or fails:
                loop.call_later(0.05, answer, None, Unavailable(f"{server} cannot be reached"), context=OUTSIDE)
                return
            try:
                result, error = do(), None
            except FleetError as exc:
                result, error = None, exc
            if loses:
                result, error = None, Unavailable(f"{server}: the connection was lost")
            loop.call_later(weather.latency(), answer, result, error, context=OUTSIDE)

        def answer(result: T | None, error: Exception | None) -> None:
            if not reply.done():
                if error is not None:
                    reply.set_exception(error)
                else:
                    reply.set_result(result)

        loop.call_later(weather.latency(), arrive, context=OUTSIDE)
        return await reply  # type: ignore[no-any-return]
