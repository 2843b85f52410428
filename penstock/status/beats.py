"""From heartbeats, announcements and totals to the view. Pure.

Heartbeats are read as a gateway reads them: a number that cannot be true counts as unknown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.routing.loads import WorkerLoad, worker_load
from penstock.status.documents import number
from penstock.status.view import Key, LaneView, ModelView, WorkerView
from protocol.errors import ConfigError
from protocol.messages import Announcement, Heartbeat, ModelLoad, ModelState
from protocol.model_config import ModelConfig


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """Rows of a version's largest batch, at least 1, and whether its configuration could be read."""

    max_batch: int
    instances: int


def shape_of(config: Mapping[str, Any]) -> Shape:
    """Of a configuration from the catalogue; batches of one if it cannot be read."""
    try:
        read = ModelConfig.from_json(dict(config))
    except ConfigError:
        return Shape(1, 1)
    return Shape(max(1, read.max_batch_size), max(1, sum(group.count for group in read.instance_groups)))


def worker_views(beats: Sequence[Heartbeat], now: float) -> tuple[WorkerView, ...]:
    """Every worker with a heartbeat, by name."""
    return tuple(_worker(beat, now) for beat in sorted(beats, key=lambda beat: beat.worker))


def _worker(beat: Heartbeat, now: float) -> WorkerView:
    ready = [load for load in beat.models if load.state is ModelState.READY]
    return WorkerView(
        beat.worker, str(beat.host), beat.pid if isinstance(beat.pid, int) else 0, max(0.0, now - beat.at), beat.draining,
        beat.restarts, len(ready), {(load.model, load.version): len(load.partitions) for load in ready},
        sum(_count(load.queued_requests) for load in beat.models),
        tuple(f"{load.model} version {load.version} is not ready ({load.unready})" for load in ready if load.unready),
    )  # fmt: skip


def model_views(
    announced: Mapping[Key, Announcement], totals: Mapping[Key, Mapping[str, Any]], beats: Sequence[Heartbeat]
) -> tuple[ModelView, ...]:
    """Every version that the catalogue has.

    Args:
        announced: the newest announcement of each.
        totals: Triton's entry of each (`protocol.model_stats.document`).
        beats: of live workers.
    """
    return tuple(_model(entry, totals.get(key, {}), beats) for key, entry in sorted(announced.items()))


def _model(entry: Announcement, counted: Mapping[str, Any], beats: Sequence[Heartbeat]) -> ModelView:
    shape = shape_of(entry.config)
    found = [
        (beat, load)
        for beat in beats
        for load in beat.models
        if (load.model, load.version) == (entry.model, entry.version) and load.state is ModelState.READY
    ]
    loads = [worker_load(beat, load, shape.max_batch, shape.instances) for beat, load in found]
    owned = {partition for load in loads for partition in load.partitions}
    digests = {load.digest for _, load in found if load.digest}
    return ModelView(
        entry.model, entry.version, entry.state.value, entry.reason,
        lanes=_lanes([load for _, load in found], loads) if found else (),
        ready_workers=sum(not load.draining for load in loads), max_batch=shape.max_batch, partitions=entry.partitions,
        unowned=sum(partition not in owned for partition in range(min(entry.partitions, 4096))), digests=len(digests),
        rows_run=_count(counted.get("inference_count")), batches_run=_count(counted.get("execution_count")),
    )  # fmt: skip


def _lanes(loads: Sequence[ModelLoad], known: Sequence[WorkerLoad]) -> tuple[LaneView, ...]:
    """What the workers hold. A worker's lag is what it has not committed, answered or not: it bounds what waits from above."""
    rows, speed = sum(load.rows for load in known), sum(load.speed for load in known)
    lanes = [
        LaneView(
            "interactive", sum(max(_count(load.lag), _count(load.queued_requests)) for load in loads), rows,
            max(number(load.oldest_age) or 0.0 for load in loads), rows / speed if speed else None if rows else 0.0,
        )
    ]  # fmt: skip
    waiting = sum(_count(load.batch_lag) for load in loads)
    if waiting:
        lanes.append(LaneView("batch", waiting, sum(_count(load.batch_queued_rows) for load in loads)))
    return tuple(lanes)


def _count(value: object) -> int:
    return int(number(value) or 0)
