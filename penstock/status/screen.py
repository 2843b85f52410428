"""The screen, as lines of text. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Final

from penstock.dead.showing import clean
from penstock.status.anomalies import Anomaly
from penstock.status.view import FleetView, LaneView, ModelView, WorkerView

UNKNOWN: Final = "?"
"""Stands for what the reader could not see."""
MAX_ROWS: Final = 60
"""Versions, and workers, that are shown; the busiest."""
_CODES: Final = {"critical": "1;31", "warning": "33", "good": "32", "head": "1"}
_MODELS: Final = (
    "MODEL", "VER", "STATE", "LANE", "WAITING", "ROWS", "OLDEST", "DRAIN", "ROWS/S", "BATCH", "P50", "P99", "WORKERS", "WANTED",
    "PARTITIONS", "DEAD",
)  # fmt: skip
_WORKERS: Final = ("WORKER", "STATE", "PROCESS", "SEEN", "MODELS", "PARTITIONS", "QUEUED", "RESTARTS")


def screen(view: FleetView, anomalies: Sequence[Anomaly], *, colours: bool = False) -> list[str]:
    """The lines: a head, models, workers, anomalies, and what could not be seen."""
    lines = [_painted(_head(view), "head", colours), ""]
    models = sorted(view.models, key=_interest)
    rows = [row for model in models[:MAX_ROWS] for row in _model_rows(model, view)]
    lines += (
        _table(_MODELS, rows, colours) if rows else ["no models; a worker announces those of its --model-repository"]
    )
    lines += _left_out(len(models), "model versions")
    workers = sorted(view.workers, key=lambda worker: (-worker.age, -worker.restarts, worker.worker))
    if workers:
        lines += ["", *_table(_WORKERS, [_worker_row(worker) for worker in workers[:MAX_ROWS]], colours)]
        lines += _left_out(len(workers), "workers")
    lines.append("")
    lines += [
        f"{_painted(each.severity.ljust(8), each.severity, colours)}  {clean(each.sentence)} ({each.runbook})"
        for each in anomalies
    ] or [_painted("nothing is wrong", "good", colours)]
    return lines + [f"not seen: {clean(each)}" for each in view.unseen]


def _head(view: FleetView) -> str:
    at = dt.datetime.fromtimestamp(view.at).astimezone().strftime("%H:%M:%S")
    gateway = {None: "", "": "gateway ready"}.get(view.gateway, "gateway NOT ready")
    store = "" if view.store_used is None else f"Redis {view.store_used:.0%} full"
    counts = f"{len(view.models)} model version(s), {len(view.workers)} worker(s)"
    return "  ".join(part for part in (clean(view.source), at, gateway, counts, store) if part)


def _interest(model: ModelView) -> tuple[float, float, str, str]:
    waiting = sum(lane.requests or 0 for lane in model.lanes)
    return -waiting, -(model.rows_per_second or 0.0), model.model, model.version


def _model_rows(model: ModelView, view: FleetView) -> Iterator[tuple[str, ...]]:
    first, *others = model.lanes or (LaneView("interactive"),)
    dead = UNKNOWN if view.dead is None else str(sum(view.dead.get(model.model, {}).values()))
    more = "+" if model.model in view.dead_cut else ""
    yield (
        clean(model.model), clean(model.version), clean(model.state), *_lane_cells(first),
        _decimal(model.rows_per_second), _fill(model), _answered(model.p50), _answered(model.p99),
        str(model.ready_workers), _number(model.wanted_workers),
        _partitions(model), dead + more,
    )  # fmt: skip
    for lane in others:
        if lane.requests:
            yield ("", "", "", *_lane_cells(lane), "", "", "", "", "", "", "", "")


def _lane_cells(lane: LaneView) -> tuple[str, ...]:
    drain = _duration(lane.time_to_drain)
    return lane.lane, _number(lane.requests), _number(lane.rows), _duration(lane.oldest_age), drain


def _fill(model: ModelView) -> str:
    if model.rows_per_batch is None:
        return "-"
    return f"{model.rows_per_batch:.1f} of {model.max_batch or UNKNOWN}"


def _answered(seconds: float | None) -> str:
    """The time within which answers were ready; the scale is a fifth wide, so two digits are enough."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else _duration(seconds) if seconds < 1 else f"{seconds:.1f} s"


def _partitions(model: ModelView) -> str:
    if model.partitions is None:
        return UNKNOWN
    if model.unowned is None:
        return f"{UNKNOWN} of {model.partitions}"
    return f"{model.partitions - model.unowned} of {model.partitions}"


def _worker_row(worker: WorkerView) -> tuple[str, ...]:
    state = "draining" if worker.draining else "unready" if worker.problems else "serving"
    owned = UNKNOWN if worker.partitions is None else str(sum(worker.partitions.values()))
    return (
        clean(worker.worker), state, f"{clean(worker.host)}:{worker.pid}", f"{worker.age:.1f} s ago", str(worker.models),
        owned, str(worker.queued), str(worker.restarts),
    )  # fmt: skip


def _number(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _left_out(count: int, what: str) -> list[str]:
    return [f"… and {count - MAX_ROWS} more {what}; --json shows all"] if count > MAX_ROWS else []


def _table(names: Sequence[str], rows: Sequence[Sequence[str]], colours: bool) -> list[str]:
    widths = [max(len(row[column]) for row in (names, *rows)) for column in range(len(names))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    return [_painted(line(names), "head", colours), *map(line, rows)]


def _painted(text: str, what: str, colours: bool) -> str:
    return f"\x1b[{_CODES[what]}m{text}\x1b[0m" if colours else text
