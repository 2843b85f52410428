"""What one worker says of one model version, as far as scaling needs it. Pure."""

from __future__ import annotations

import dataclasses

from gateway.backlog import Backlog, count, held, is_full
from gateway.routing.loads import executed, partitions_of, speed
from protocol.messages import Lane, ModelLoad


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """What the catalogue says of a model version: rows of its largest batch, instances per worker, partitions as announced."""

    max_batch: int = 1
    instances: int = 1
    partitions: int = 1


class VersionLoad:
    """What a worker says of a model version. It is worked out once, and most workers repeat themselves twice a second.

    Attributes:
        load: of its heartbeat.
        shape: of the version.
        full: rows of a full batch on each of its instances.
        speed: rows per second at full batches; 0 if unknown.
        executed: rows that it has run since it started.
        runs: whether rows run now.
        is_full: whether it has as much as it takes in.
        partitions, batch_partitions: that it owns, of each lane.
    """

    __slots__ = (
        "_held", "batch_partitions", "executed", "full", "is_full", "load", "partitions", "runs", "shape", "speed",
    )  # fmt: skip

    def __init__(self, load: ModelLoad, shape: Shape) -> None:
        self.load = load
        self.shape = shape
        self.full = shape.max_batch * shape.instances
        self.speed = speed(load, shape.max_batch, shape.instances)[0]
        self.executed = executed(load)
        self.runs = count(load.running_rows) > 0
        self.is_full = is_full(load, self.full)
        self.partitions = partitions_of(load.partitions)
        self.batch_partitions = partitions_of(load.batch_partitions)
        self._held: dict[tuple[Lane, bool, float], Backlog] = {}

    def held(self, lane: Lane, rows_per_request: float, *, draining: bool) -> Backlog:
        """See `backlog.held`."""
        asked = lane, draining, rows_per_request
        found = self._held.get(asked)
        if found is None:
            if len(self._held) > 2:
                self._held.clear()  # of other logs, or from before it was draining
            found = self._held[asked] = held(self.load, lane, self.full, draining, rows_per_request)
        return found
