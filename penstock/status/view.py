"""The fleet at one moment, as plain values, and what two moments say together. Pure.

None means that the reader could not see it. Times are in seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from protocol.answer_times import between, quantile

Key = tuple[str, str]
"""(model, version)."""


@dataclasses.dataclass(frozen=True, slots=True)
class LaneView:
    """One lane of a model version.

    Attributes:
        lane: "interactive" or "batch".
        requests, rows: accepted and not yet answered.
        oldest_age: of the oldest of them.
        time_to_drain: until all of them are answered; None also if no worker's speed is known.
    """

    lane: str
    requests: int | None = None
    rows: int | None = None
    oldest_age: float | None = None
    time_to_drain: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ModelView:
    """One model version.

    Attributes:
        state, reason: as in the repository index.
        lanes: the interactive one first.
        ready_workers: how many serve it.
        wanted_workers: how many the scaling signal asks for.
        max_batch: rows of its largest batch; 0 if unknown.
        partitions: of its interactive topic.
        unowned: those of them that no live worker owns.
        digests: different sets of files under this version.
        rows_run, batches_run: since the store began to count.
        rows_per_second, rows_per_batch: between two readings; None if nothing ran.
        answers: by the bucket of their time (`protocol.answer_times`), since the store began to count.
        p50, p99: within so many seconds half of the answers between two readings were ready, and 99 of 100; None without any.
    """

    model: str
    version: str
    state: str
    reason: str = ""
    lanes: tuple[LaneView, ...] = ()
    ready_workers: int = 0
    wanted_workers: int | None = None
    max_batch: int = 0
    partitions: int | None = None
    unowned: int | None = None
    digests: int = 0
    rows_run: int = 0
    batches_run: int = 0
    rows_per_second: float | None = None
    rows_per_batch: float | None = None
    answers: tuple[tuple[int, int], ...] = ()
    p50: float | None = None
    p99: float | None = None

    @property
    def key(self) -> Key:
        """Names it."""
        return self.model, self.version

    def lane(self, name: str) -> LaneView:
        """The lane; one without numbers if there is none."""
        return next((lane for lane in self.lanes if lane.lane == name), LaneView(name))


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker.

    Attributes:
        age: of its last heartbeat.
        restarts: how often its supervisor started it again.
        models: versions that it serves.
        partitions: of interactive topics that it owns, by model version.
        queued: requests that wait in it.
        problems: why versions on it are not ready.
    """

    worker: str
    host: str = ""
    pid: int = 0
    age: float = 0.0
    draining: bool = False
    restarts: int = 0
    models: int = 0
    partitions: Mapping[Key, int] | None = None
    queued: int = 0
    problems: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class FleetView:
    """The fleet.

    Attributes:
        source: whom we asked.
        at: when, seconds since the epoch.
        gateway: "" if the gateway is ready, else why not; None if no gateway was asked.
        store_used: share of the store's memory, 0 to 1.
        dead: dead letters that nobody has sent again: by model, by reason.
        dead_cut: models with more dead letters than were read.
        unseen: what this reading cannot show, and how to see it; one sentence each.
    """

    source: str
    at: float
    gateway: str | None = None
    store_used: float | None = None
    dead: Mapping[str, Mapping[str, int]] | None = None
    dead_cut: frozenset[str] = frozenset()
    models: tuple[ModelView, ...] = ()
    workers: tuple[WorkerView, ...] = ()
    unseen: tuple[str, ...] = ()


def with_pace(now: FleetView, before: FleetView) -> FleetView:
    """The later view with what ran between the two: rows a second and a batch, times of answers. A count that fell is unknown."""
    seconds = now.at - before.at
    known = {model.key: model for model in before.models}

    def paced(model: ModelView) -> ModelView:
        former = known.get(model.key)
        if former is None or seconds <= 0:
            return model
        rows, batches = model.rows_run - former.rows_run, model.batches_run - former.batches_run
        if rows < 0 or batches < 0:
            return model
        answers = between(former.answers, model.answers)
        return dataclasses.replace(
            model, rows_per_second=rows / seconds, rows_per_batch=rows / batches if rows and batches else None,
            p50=quantile(answers, 0.5), p99=quantile(answers, 0.99),
        )  # fmt: skip

    return dataclasses.replace(now, models=tuple(map(paced, now.models)))


def with_gateway(fleet: FleetView, gateway: FleetView) -> FleetView:
    """What the fleet's own servers say, with what only a gateway knows: its readiness, backlog, wanted workers."""
    told = {model.key: model for model in gateway.models}

    def joined(model: ModelView) -> ModelView:
        other = told.get(model.key)
        if other is None or other.wanted_workers is None:
            return model
        return dataclasses.replace(model, lanes=other.lanes, wanted_workers=other.wanted_workers)

    scaled = any(model.wanted_workers is not None for model in gateway.models)
    return dataclasses.replace(
        fleet,
        source=f"{fleet.source} and {gateway.source}",
        gateway=gateway.gateway,
        models=tuple(map(joined, fleet.models)),
        unseen=tuple(each for each in fleet.unseen if not (scaled and "--gateway" in each)),
    )
