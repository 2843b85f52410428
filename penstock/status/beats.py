"""From heartbeats, announcements, totals and what scaling makes of them to the view. Pure.

Heartbeats are read as a gateway reads them: a number that cannot be true counts as unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gateway.routing.loads import partitions_of
from gateway.scaling.fleet import LaneScaling
from penstock.status.documents import number
from penstock.status.view import Key, LaneView, ModelView, WorkerView
from protocol.errors import ConfigError
from protocol.messages import Announcement, Heartbeat, ModelState
from protocol.model_config import ModelConfig


def max_batch_of(config: Mapping[str, Any]) -> int:
    """Rows of the largest batch of a configuration from the catalogue; 1 if it cannot be read."""
    try:
        return max(1, ModelConfig.from_json(dict(config)).max_batch_size)
    except ConfigError:
        return 1


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


def lane_views(lanes: Iterable[LaneScaling]) -> dict[Key, tuple[LaneView, ...]]:
    """The lanes of each version, the interactive one first."""
    found: dict[Key, tuple[LaneView, ...]] = {}
    for each in lanes:
        backlog, key = each.backlog, (each.model, each.version)
        lane = LaneView(each.lane.value, backlog.requests, backlog.rows, backlog.oldest_age, each.drain)
        found[key] = (*found.get(key, ()), lane)
    return found


def model_views(
    announced: Mapping[Key, Announcement], totals: Mapping[Key, Mapping[str, Any]], beats: Sequence[Heartbeat],
    lanes: Mapping[Key, tuple[LaneView, ...]],
) -> tuple[ModelView, ...]:  # fmt: skip
    """Every version that the catalogue has.

    Args:
        announced: the newest announcement of each.
        totals: Triton's entry of each (`protocol.model_stats.document`), with `answers` as of `answer_times.histogram`.
        beats: of live workers.
        lanes: of each version; see `lane_views`.
    """
    return tuple(
        _model(entry, totals.get(key, {}), beats, lanes.get(key, ())) for key, entry in sorted(announced.items())
    )


def _model(
    entry: Announcement, counted: Mapping[str, Any], beats: Sequence[Heartbeat], lanes: tuple[LaneView, ...]
) -> ModelView:
    found = [
        (beat, load)
        for beat in beats
        for load in beat.models
        if (load.model, load.version) == (entry.model, entry.version) and load.state is ModelState.READY
    ]
    owned = {partition for _, load in found for partition in partitions_of(load.partitions)}
    digests = {load.digest for _, load in found if load.digest}
    return ModelView(
        entry.model, entry.version, entry.state.value, entry.reason, lanes=lanes,
        ready_workers=sum(not beat.draining for beat, _ in found), max_batch=max_batch_of(entry.config),
        partitions=entry.partitions, unowned=sum(partition not in owned for partition in range(min(entry.partitions, 4096))),
        digests=len(digests),
        answers=tuple(counted.get("answers", ())),
        rows_run=_count(counted.get("inference_count")), batches_run=_count(counted.get("execution_count")),
    )  # fmt: skip


def _count(value: object) -> int:
    return int(number(value) or 0)
