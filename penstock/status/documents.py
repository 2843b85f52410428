"""From a gateway's JSON documents to the view. Pure.

Whatever answers at a URL may send anything: a number that cannot be true counts as unknown, an entry without a name is left out,
and a document of another kind is a `CodecError`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from penstock.status.view import FleetView, Key, LaneView, ModelView, WorkerView
from protocol.answer_times import NAMES
from protocol.errors import CodecError

LANES: Final = ("interactive", "batch")
MAX_MODELS: Final = 10_000
"""Entries of a document that are looked at."""
HIDDEN: Final = (
    "who owns which partition, dead letters, Redis' memory and workers without a model are not visible through a gateway: "
    "add --kafka and --redis"
)
UNSCALED: Final = "oldest age, time to drain and wanted workers are unknown: this gateway has no /v2/fleet/scaling"


def gateway_view(
    source: str,
    at: float,
    ready: str,
    documents: tuple[object, object, object | None],
    max_batch: Mapping[Key, int],
    overview: object = None,
) -> FleetView:
    """What a gateway says of its fleet.

    Args:
        source: its URL.
        ready: "" or why it is not ready.
        documents: the repository index, the statistics with workers, and the scaling document or None if it has none.
        max_batch: rows of the largest batch, of versions for which it is known.
        overview: `/v2/fleet/models`, which an older gateway does not have.

    Raises:
        CodecError: a document is not what its route answers.
    """
    index, statistics, scaling = documents
    entries = {_key(entry, "name"): entry for entry in _listed(statistics, "model_stats", "/v2/models/stats")}
    lanes = _lanes(scaling)
    answers = _answers(overview)
    models = tuple(
        dataclasses.replace(
            _model(entry, entries.get(key, {}), lanes, max_batch.get(key, 0)), answers=answers.get(key, ())
        )
        for entry in _rows(index, "/v2/repository/index")
        if (key := _key(entry, "name"))[0] and key[1]
    )
    unseen = (HIDDEN,) if scaling is not None else (HIDDEN, UNSCALED)
    return FleetView(source, at, ready, models=models, workers=_workers(entries), unseen=unseen)


def _model(
    entry: Mapping[str, Any], counted: Mapping[str, Any], lanes: Mapping[Key, dict[str, Mapping[str, Any]]], most: int
) -> ModelView:
    key = _key(entry, "name")
    of = lanes.get(key, {})
    beats = [worker for worker in _mappings(counted.get("workers")) if worker.get("state") == "READY"]
    first = next(iter(of.values()), {})
    wanted = _count(first.get("wanted_workers"))
    told = _count(first.get("ready_workers"))
    return ModelView(
        *key, text(entry.get("state")) or "UNKNOWN", text(entry.get("reason")),
        lanes=tuple(_lane(lane, of[lane]) for lane in LANES if lane in of) or (_of_workers(beats),),
        ready_workers=len(beats) if told is None else told, wanted_workers=wanted, max_batch=most,
        partitions=_count(first.get("partitions")) or None,
        rows_run=_count(counted.get("inference_count")) or 0, batches_run=_count(counted.get("execution_count")) or 0,
    )  # fmt: skip


def _of_workers(beats: list[Mapping[str, Any]]) -> LaneView:
    """Without a scaling document: what workers hold and have not committed. Age and time are not in the statistics."""
    counts = [max(_count(beat.get("lag")) or 0, _count(beat.get("queued_requests")) or 0) for beat in beats]
    return LaneView(LANES[0], requests=sum(counts) if beats else None)


def _lane(name: str, entry: Mapping[str, Any]) -> LaneView:
    return LaneView(
        name, _count(entry.get("backlog_requests")), _count(entry.get("backlog_rows")),
        _seconds(entry.get("oldest_age_ms")), _seconds(entry.get("time_to_drain_ms")),
    )  # fmt: skip


def _lanes(scaling: object | None) -> dict[Key, dict[str, Mapping[str, Any]]]:
    found: dict[Key, dict[str, Mapping[str, Any]]] = {}
    if scaling is not None:
        for entry in _listed(scaling, "models", "/v2/fleet/scaling"):
            found.setdefault(_key(entry, "model"), {})[text(entry.get("lane"))] = entry
    return found


def _answers(overview: object) -> dict[Key, tuple[tuple[int, int], ...]]:
    """How many answers took how long, by version."""
    found = {}
    for entry in _mappings(overview.get("models") if isinstance(overview, dict) else None):
        counts = entry.get("counts")
        pairs = counts.get("answers") if isinstance(counts, dict) else None
        known = [pair for pair in pairs if isinstance(pair, list) and len(pair) == 2] if isinstance(pairs, list) else []
        counted = [(_count(place), _count(count)) for place, count in known[: len(NAMES)]]
        found[_key(entry, "name")] = tuple(
            [(a, b) for a, b in counted if a is not None and b is not None and a < len(NAMES)]
        )
    return found


def _workers(entries: Mapping[Key, Mapping[str, Any]]) -> tuple[WorkerView, ...]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries.values():
        for worker in _mappings(entry.get("workers")):
            if name := text(worker.get("worker")):
                found.setdefault(name, []).append(worker)
    return tuple(_worker(name, beats) for name, beats in sorted(found.items()))


def _worker(name: str, beats: list[Mapping[str, Any]]) -> WorkerView:
    first = beats[0]
    return WorkerView(
        name, text(first.get("host")), _count(first.get("pid")) or 0, number(first.get("age_s")) or 0.0,
        restarts=_count(first.get("restarts")) or 0, models=len(beats),
        queued=sum(_count(beat.get("queued_requests")) or 0 for beat in beats),
    )  # fmt: skip


# --- any JSON ----------------------------------------------------------------------------------------------------------


def _listed(document: object, key: str, route: str) -> Iterator[Mapping[str, Any]]:
    if not isinstance(document, dict) or not isinstance(document.get(key), list):
        raise CodecError(f"{route} did not answer an object with a list '{key}': is this a gateway of Penstock?")
    return _mappings(document[key])


def _rows(document: object, route: str) -> Iterator[Mapping[str, Any]]:
    if not isinstance(document, list):
        raise CodecError(f"{route} did not answer a list: is this a gateway of Penstock?")
    return _mappings(document)


def _mappings(value: object) -> Iterator[Mapping[str, Any]]:
    yield from (entry for entry in (value[:MAX_MODELS] if isinstance(value, list) else ()) if isinstance(entry, dict))


def _key(entry: Mapping[str, Any], name: str) -> Key:
    return text(entry.get(name)), text(entry.get("version"))


def text(value: object) -> str:
    """The value if it is text, else ""."""
    return value if isinstance(value, str) else ""


def number(value: object) -> float | None:
    """The value if it is a number from 0 on, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        real = float(value)
    except OverflowError:
        return None
    return real if math.isfinite(real) and real >= 0 else None


def _count(value: object) -> int | None:
    real = number(value)
    return None if real is None else int(real)


def _seconds(milliseconds: object) -> float | None:
    real = number(milliseconds)
    return None if real is None else real / 1000
