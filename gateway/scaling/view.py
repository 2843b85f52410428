"""One process's view of the fleet's scaling: fed with heartbeats, and with logs when somebody asks.

Invariants: the brokers are asked at most once per `MAX_AGE`, however many ask; what was known stays while they do not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from gateway.catalogue.catalogue import Catalogue
from gateway.routing.capacity import instances_of
from gateway.scaling.fleet import FleetScaling, Key, LaneScaling
from gateway.scaling.reading import LogReader
from gateway.scaling.wanted import Policy
from gateway.scaling.worker import Shape
from protocol.control import ControlTable
from protocol.errors import FleetError
from protocol.messages import Heartbeat
from protocol.naming import Names
from protocol.ports import Bus, Results

MAX_AGE: Final = 1.0
"""Seconds for which what the logs said is used again."""


class ScalingView:
    """What this process knows.

    Args:
        bus, results: to read from.
        names: of topics.
        catalogue: of the announced versions.
        clock: the fleet's.
        silence: seconds after its last heartbeat from which a worker counts as gone.
        policy: of versions by themselves.

    Attributes:
        fleet: the state.
    """

    def __init__(  # noqa: PLR0913  # what it reads, and by which rules
        self,
        bus: Bus,
        results: Results,
        names: Names,
        catalogue: Catalogue,
        clock: Callable[[], float],
        silence: float,
        policy: Policy | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._clock = clock
        self.fleet = FleetScaling(names, self._shape, self._versions, policy or Policy(), silence)
        self._reader = LogReader(bus, results, catalogue, self.fleet, clock)
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    def observe(self, beats: Sequence[Heartbeat]) -> None:
        """Take in the newest heartbeats; `update` or `refresh` counts them."""
        self.fleet.observe(beats)

    def update(self) -> None:
        """Decide anew from heartbeats and from what the logs said last."""
        self.fleet.update(self._clock())

    async def refresh(self, max_age: float = MAX_AGE) -> None:
        """Decide anew, from logs that were read within `max_age` seconds.

        Raises:
            Unavailable: the logs are older, and no broker answers.
        """
        loop = asyncio.get_running_loop()
        self.update()
        if self._reading is None and loop.time() - self._read_at >= max_age:
            self._reading = loop.create_task(self._reader.look())
            self._reading.add_done_callback(self._done)
        if self._reading is not None:
            await asyncio.shield(self._reading)
            self.update()

    def follow(self, table: ControlTable) -> None:
        """Keep a worker for every model that this table pins, or wants loaded while no version of it is ready."""
        self.fleet.kept = lambda model: table.is_pinned(model) or (table.is_loaded(model) and not self._is_ready(model))

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def lanes(self, model: str = "", version: str = "") -> list[LaneScaling]:
        """All lanes, or those of a model or a version of it, by name, version and lane.

        Raises:
            NotFound: there is no such model or version.
        """
        if not model:
            chosen = self._catalogue.all()
        else:
            chosen = [self._catalogue.get(model, version)] if version else self._catalogue.versions(model)
        return self.fleet.lanes((served.model, served.version) for served in chosen)

    def workers(self, lanes: Sequence[LaneScaling]) -> tuple[int, int]:
        """The ready and the wanted workers of these versions together; a worker counts once, whatever it serves."""
        wanted = {(lane.model, lane.version): lane.wanted for lane in lanes}
        return self.fleet.ready(wanted), sum(wanted.values())

    def _done(self, reading: asyncio.Task[None]) -> None:
        self._reading = None
        if not reading.cancelled() and reading.exception() is None:
            self._read_at = asyncio.get_running_loop().time()

    def _shape(self, key: Key) -> Shape | None:
        try:
            served = self._catalogue.get(*key)
        except FleetError:
            return None
        return Shape(max(1, served.config.max_batch_size), instances_of(served.config), served.partitions)

    def _is_ready(self, model: str) -> bool:
        return self._catalogue.is_model(model) and any(served.ready for served in self._catalogue.versions(model))

    def _versions(self, model: str) -> Sequence[str]:
        if not self._catalogue.is_model(model):
            return ()
        return [served.version for served in self._catalogue.versions(model)]
