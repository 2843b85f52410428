"""Triton's statistics (3.6) of a model version, summed over all workers that serve it; and its metadata. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from protocol.messages import Heartbeat
from protocol.model_config import ModelConfig, TensorSpec
from protocol.model_stats import add_stats, no_stats


def model_stats(models: Sequence[tuple[str, str]], heartbeats: Iterable[Heartbeat]) -> dict[str, Any]:
    """The body of `/v2/models/stats`: one entry per model version, zeros if no worker has reported.

    Args:
        models: (model, version) of the entries.
        heartbeats: of all workers; the last one of a silent worker still counts, so that sums do not drop when it goes.
    """
    sums: dict[tuple[str, str], dict[str, Any]] = {key: dict(no_stats()) for key in models}
    for beat in heartbeats:
        for load in beat.models:
            if (load.model, load.version) in sums:
                add_stats(sums[load.model, load.version], load.statistics)
    return {"model_stats": [{"name": model, "version": version, **sums[model, version]} for model, version in models]}


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
