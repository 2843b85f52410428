"""Triton's statistics (3.6) of a model version, summed over all workers that serve it; and its metadata. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from protocol.messages import Heartbeat
from protocol.model_config import ModelConfig, TensorSpec

_LATEST = "last_inference"
_ROW_KEYS = ("batch_size", "type", "id")


def model_stats(models: Sequence[tuple[str, str]], heartbeats: Iterable[Heartbeat]) -> dict[str, Any]:
    """The body of `/v2/models/stats`: one entry per model version, zeros where no worker has said anything.

    Args:
        models: (model, version) of the entries.
        heartbeats: of all workers; a silent one's last words still count, so that sums do not fall when it goes.
    """
    sums: dict[tuple[str, str], dict[str, Any]] = {key: _empty() for key in models}
    for beat in heartbeats:
        for load in beat.models:
            if (load.model, load.version) in sums:
                add(sums[load.model, load.version], load.statistics)
    return {"model_stats": [{"name": model, "version": version, **sums[model, version]} for model, version in models]}


def add(total: dict[str, Any], part: dict[str, Any]) -> None:
    """Add one worker's statistics to a sum: numbers add up, objects by key, lists of objects by what names their rows."""
    for key, value in part.items():
        if key in ("name", "version"):
            continue
        here = total.get(key)
        if isinstance(value, dict):
            add(total.setdefault(key, {}), value)
        elif isinstance(value, list):
            total[key] = _merge(here or [], value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            total[key] = max(here or 0, value) if key == _LATEST else (here or 0) + value


def _merge(rows: list[dict[str, Any]], more: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_name: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in [*rows, *more]:
        name = tuple(row.get(key) for key in _ROW_KEYS)
        total = by_name.setdefault(name, {key: row[key] for key in _ROW_KEYS if key in row})
        add(total, {key: value for key, value in row.items() if key not in _ROW_KEYS})
    return [by_name[name] for name in sorted(by_name, key=repr if len(by_name) < 2 else _order)]


def _order(name: tuple[Any, ...]) -> tuple[int, str, int]:
    size, kind, number = name
    return (size or 0, kind or "", number or 0)


def _empty() -> dict[str, Any]:
    durations = (
        "success",
        "fail",
        "queue",
        "compute_input",
        "compute_infer",
        "compute_output",
        "cache_hit",
        "cache_miss",
    )
    return {
        "last_inference": 0,
        "inference_count": 0,
        "execution_count": 0,
        "inference_stats": {name: {"count": 0, "ns": 0} for name in durations},
        "response_stats": {},
        "batch_stats": [],
        "memory_usage": [],
    }


def metadata(config: ModelConfig, versions: Sequence[str]) -> dict[str, Any]:
    """Triton's metadata of a model."""

    def tensors(specs: Iterable[TensorSpec]) -> list[dict[str, Any]]:
        return [{"name": s.name, "datatype": s.datatype, "shape": list(config.shape_of(s))} for s in specs]

    return {
        "name": config.name,
        "versions": list(versions),
        "platform": config.platform or config.backend,
        "inputs": tensors(config.inputs),
        "outputs": tensors(config.outputs),
    }
