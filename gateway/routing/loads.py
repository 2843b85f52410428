"""What one heartbeat says about one worker's capacity for one model version. Pure.

A heartbeat is a stranger's text: every number is checked, and one that cannot be true counts as unknown.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gateway.backlog import MAX_COUNT, held
from gateway.backlog import count as counted
from protocol.codec import MAX_NUMBER
from protocol.messages import Heartbeat, Lane, ModelLoad

MAX_PARTITIONS: Final = 4096
"""Partitions of one heartbeat that are looked at."""
_MAX_SECONDS: Final = 3600.0
_MAX_SIZES: Final = 256
"""Batch sizes of one heartbeat that are looked at."""
FLAT: Final = 1.1
"""Rows count as nearly free if batches of twice the mean size take at most this many times as long."""
BRIEF: Final = 0.001
"""Seconds. Below this, a batch costs a worker less than receiving and answering its requests does."""


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerLoad:
    """One worker's capacity for one model version.

    Attributes:
        worker: its id.
        partitions: that it owns.
        rows: waiting for it or being run, when it said so.
        at: when that was, on the store's clock.
        full: rows of a full batch on each of its instances.
        speed: rows per second at full batches; 0 if unknown.
        draining: whether it takes no new requests.
        executed: rows that it has run since it started.
        flat: whether larger batches cost hardly more time than small ones, so that gathering pays; None if unknown.
    """

    worker: str
    partitions: tuple[int, ...]
    rows: int = 0
    at: float = 0.0
    full: int = 1
    speed: float = 0.0
    flat: bool | None = None
    draining: bool = False
    executed: int = 0


def worker_load(beat: Heartbeat, load: ModelLoad, max_batch: int, instances: int) -> WorkerLoad:
    """The capacity that a heartbeat describes.

    Args:
        max_batch: rows of the model's largest batch, at least 1.
        instances: that the worker runs of it, at least 1.
    """
    full = max_batch * instances
    rate, flat = speed(load, max_batch, instances)
    return WorkerLoad(
        beat.worker,
        partitions_of(load.partitions),
        _rows(load, full),
        beat.at,
        full,
        rate,
        flat,
        beat.draining,
        executed(load),
    )


def speed(load: ModelLoad, max_batch: int, instances: int) -> tuple[float, bool | None]:
    """Rows per second of full batches on all instances, 0 if unknown; and whether rows are nearly free, None if unknown."""
    seconds, flat = _full_batch(_classes(load.runs) or _times(load.statistics), max_batch)
    return max_batch * instances / seconds if seconds else 0.0, flat


def executed(load: ModelLoad) -> int:
    """Rows that the worker has run since it started."""
    return counted(load.executed, MAX_NUMBER) or _executed(load.statistics)


def partitions_of(claimed: Iterable[object]) -> tuple[int, ...]:
    """The partitions that a worker says it owns: at most `MAX_PARTITIONS` numbers."""
    kept = itertools.islice(claimed, MAX_PARTITIONS)
    return tuple(dict.fromkeys(p for p in kept if type(p) is int and p >= 0))


def _rows(load: ModelLoad, full: int) -> int:
    """Rows that a new one waits for: those of the interactive lane, and those of the batch lane that run."""
    waiting = held(load, Lane.INTERACTIVE, full, draining=False).rows + counted(load.batch_running_rows)
    return min(max(waiting, counted(load.queued_rows) + counted(load.running_rows)), MAX_COUNT)


def _executed(statistics: object) -> int:
    return counted(statistics.get("inference_count"), MAX_NUMBER) if isinstance(statistics, Mapping) else 0


def full_batch(statistics: object, max_batch: int) -> tuple[float, bool | None]:
    """Seconds that a full batch takes, 0 if unknown; and whether rows are nearly free, None if unknown.

    A line through the mean times of the batch sizes that ran, each with the weight of its batches.

    Args:
        statistics: see `protocol.model_stats.ModelStats`; only `batch_stats` is read.
    """
    return _full_batch(_times(statistics), max_batch)


def _full_batch(times: Sequence[tuple[float, int, float]], max_batch: int) -> tuple[float, bool | None]:
    batches = sum(count for _, count, _ in times)
    if not batches:
        return 0.0, None
    rows = sum(size * count for size, count, _ in times) / batches
    seconds = sum(total for _, _, total in times) / batches
    spread = sum(count * (size - rows) ** 2 for size, count, _ in times)
    if not spread:
        return seconds / rows * max_batch, None
    per_row = max(0.0, sum((size - rows) * total for size, _, total in times) / spread)
    per_batch = max(0.0, seconds - per_row * rows)
    doubled = per_batch + per_row * min(2 * rows, max_batch)
    return per_batch + per_row * max_batch, seconds >= BRIEF and doubled <= FLAT * seconds


def _classes(runs: Iterable[Any]) -> list[tuple[float, int, float]]:
    """(mean rows of a batch, batches, seconds in all) of each size class that ran; see `protocol.model_stats.merge_runs`."""
    times = []
    for entry in itertools.islice(runs, _MAX_SIZES):
        try:
            batches, in_all, ns = entry
        except (TypeError, ValueError):
            continue
        count, rows, total = counted(batches), counted(in_all, MAX_NUMBER), counted(ns, MAX_NUMBER)
        if count and rows and total < count * _MAX_SECONDS * 1e9:
            times.append((rows / count, count, total / 1e9))
    return times


def _times(statistics: object) -> list[tuple[float, int, float]]:
    """(rows, batches, seconds in all) of each batch size that ran, as a worker of wire version 1 says."""
    listed = statistics.get("batch_stats") if isinstance(statistics, Mapping) else None
    times: list[tuple[float, int, float]] = []
    for entry in listed[:_MAX_SIZES] if isinstance(listed, list | tuple) else ():
        try:
            ran = entry["compute_infer"]
            size, count, total = counted(entry["batch_size"]), counted(ran["count"]), counted(ran["ns"], MAX_NUMBER)
        except (TypeError, KeyError, IndexError):
            continue
        if size and count and total < count * _MAX_SECONDS * 1e9:
            times.append((size, count, total / 1e9))
    return times
