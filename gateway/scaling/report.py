"""What is known of scaling, as JSON. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.scaling.fleet import LaneScaling


def document(lanes: Sequence[LaneScaling]) -> dict[str, Any]:
    """Every lane of every version."""
    return {"models": [entry(lane) for lane in lanes]}


def entry(lane: LaneScaling) -> dict[str, Any]:
    """One lane of a model version; what is not known is null."""
    backlog = lane.backlog
    return {
        "model": lane.model,
        "version": lane.version,
        "lane": lane.lane.value,
        "backlog_requests": backlog.requests,
        "backlog_rows": backlog.rows,
        "oldest_age_ms": _milliseconds(backlog.oldest_age),
        "rows_per_second": None if lane.rate is None else round(lane.rate, 3),
        "time_to_drain_ms": _milliseconds(lane.drain),
        "ready_workers": lane.ready,
        "wanted_workers": lane.wanted,
        "partitions": lane.partitions,
    }


def summary(model: str, version: str, lanes: Sequence[LaneScaling], ready: int, wanted: int) -> dict[str, Any]:
    """One flat object about a model, for a scaler that reads one number of a JSON document.

    Args:
        version: "" for all versions.
        lanes: of these versions.
        ready, wanted: workers of all of them together.
    """
    drains = [lane.drain for lane in lanes if lane.backlog.requests]
    ages = [lane.backlog.oldest_age for lane in lanes if lane.backlog.requests]
    rates = [lane.rate for lane in lanes[::2]]
    known = [age for age in ages if age is not None]
    return {
        "model": model,
        "version": version,
        "backlog_requests": sum(lane.backlog.requests for lane in lanes),
        "backlog_rows": sum(lane.backlog.rows for lane in lanes),
        "oldest_age_ms": _milliseconds(max(known) if known else None if ages else 0.0),
        "rows_per_second": None if None in rates else round(sum(rate or 0.0 for rate in rates), 3),
        "time_to_drain_ms": None if None in drains else _milliseconds(max((d for d in drains if d), default=0.0)),
        "ready_workers": ready,
        "wanted_workers": wanted,
    }


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
