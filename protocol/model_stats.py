"""The statistics document of a model version: Triton's `model_stats` entry, as heartbeats carry it and gateways sum it. Pure.

Counts are numbers of requests unless a field says otherwise; `ns` is nanoseconds, summed over `count`. Workers write the document
(`encode_model_stats`), gateways start from zeros (`no_stats`) and add one document per worker (`add_stats`).

Invariant: a sum keeps unknown fields, so that workers of a newer version may add fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NotRequired, TypedDict

DURATIONS: Final = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)
"""Keys of `inference_stats`, in Triton's order."""


class DurationStats(TypedDict):
    """How often, and how long in all."""

    count: int
    ns: int


class BatchStats(TypedDict):
    """Batches of one size: `count` counts batches."""

    batch_size: int
    compute_input: DurationStats
    compute_infer: DurationStats
    compute_output: DurationStats


class ModelStats(TypedDict):
    """The document.

    `last_inference` is milliseconds since the epoch, `inference_count` rows, `execution_count` batches, `inference_stats` by
    `DURATIONS`. `response_stats` and `memory_usage` are Triton's, and empty here; only gateways write `response_stats`.
    """

    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: dict[str, DurationStats]
    response_stats: NotRequired[dict[str, Any]]
    batch_stats: list[BatchStats]
    memory_usage: list[dict[str, Any]]


_LATEST: Final = "last_inference"
"""The only number that is not added: a sum keeps the largest."""
_NAMES: Final = ("name", "version")
_ROW_KEYS: Final = ("batch_size", "type", "id")
"""What identifies a row of a list."""


def encode_duration(count: int, seconds: float) -> DurationStats:
    """Triton's `{count, ns}`."""
    return {"count": count, "ns": round(seconds * 1e9)}


def encode_model_stats(
    last_inference: float,
    inference_count: int,
    execution_count: int,
    durations: Mapping[str, DurationStats],
    batches: Iterable[BatchStats],
) -> ModelStats:
    """A worker's document.

    Args:
        last_inference: seconds since the epoch.
        inference_count: rows.
        execution_count: batches.
        durations: by key of `DURATIONS`; a missing one is zero.
        batches: by ascending size.
    """
    return {
        "last_inference": round(last_inference * 1000),
        "inference_count": inference_count,
        "execution_count": execution_count,
        "inference_stats": {name: durations.get(name) or encode_duration(0, 0.0) for name in DURATIONS},
        "batch_stats": list(batches),
        "memory_usage": [],
    }


def no_stats() -> ModelStats:
    """The document of a version that has run nothing."""
    return {
        "last_inference": 0,
        "inference_count": 0,
        "execution_count": 0,
        "inference_stats": {name: encode_duration(0, 0.0) for name in DURATIONS},
        "response_stats": {},
        "batch_stats": [],
        "memory_usage": [],
    }


def add_stats(total: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Add one worker's document to a sum: numbers add up, objects by key, lists of objects by `batch_size`, `type` and `id`."""
    for key, value in part.items():
        if key in _NAMES:
            continue
        here = total.get(key)
        if isinstance(value, dict):
            add_stats(total.setdefault(key, {}), value)
        elif isinstance(value, list):
            total[key] = _merged(here or [], value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            total[key] = max(here or 0, value) if key == _LATEST else (here or 0) + value


def _merged(rows: list[dict[str, Any]], more: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_name: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in [*rows, *more]:
        name = tuple(row.get(key) for key in _ROW_KEYS)
        total = by_name.setdefault(name, {key: row[key] for key in _ROW_KEYS if key in row})
        add_stats(total, {key: value for key, value in row.items() if key not in _ROW_KEYS})
    return [by_name[name] for name in sorted(by_name, key=repr if len(by_name) < 2 else _order)]


def _order(name: tuple[Any, ...]) -> tuple[int, str, int]:
    size, kind, number = name
    return (size or 0, kind or "", number or 0)
