"""Triton's statistics (3.6) of a model version: the fleet's totals, and each worker's own counts; and its metadata. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from protocol.messages import Heartbeat
from protocol.model_config import ModelConfig, TensorSpec
from protocol.model_stats import document
from protocol.totals import Key


def model_stats(models: Sequence[Key], totals: Iterable[Mapping[str, int]]) -> dict[str, Any]:
    """The body of `/v2/models/stats`: one entry per model version, zeros where nothing was counted.

    Args:
        models: (model, version) of the entries.
        totals: theirs, in the same order.
    """
    pairs = zip(models, totals, strict=True)
    return {"model_stats": [{"name": model, "version": version, **document(of)} for (model, version), of in pairs]}


def add_workers(stats: Mapping[str, Any], heartbeats: Iterable[Heartbeat], now: float) -> None:
    """Add `workers` to each entry: what each worker counted since it loaded the version, as of its last heartbeat.

    Args:
        stats: as of `model_stats`.
        heartbeats: sound ones, of all workers.
        now: seconds since the epoch.
    """
    beats = sorted(heartbeats, key=lambda beat: beat.worker)
    for entry in stats["model_stats"]:
        entry["workers"] = [
            {
                "worker": beat.worker,
                "host": beat.host,
                "pid": beat.pid,
                "age_s": round(max(0.0, now - beat.at), 3),
                "state": load.state.value,
                "restarts": beat.restarts,
                "queued_requests": load.queued_requests,
                "running_rows": load.running_rows,
                "lag": load.lag,
                **{name: value for name, value in load.statistics.items() if name not in {"name", "version"}},
            }
            for beat in beats
            for load in beat.models
            if (load.model, load.version) == (entry["name"], entry["version"]) and isinstance(load.statistics, Mapping)
        ]


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
