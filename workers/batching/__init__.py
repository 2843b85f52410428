"""Batching: which requests run together, and when. Pure: time is an argument.

Decided here: when a batch is released and with which requests (`dynamic.DynamicBatcher.take`), in which order requests are served,
when they expire and when a queue is full (`queue.PolicyQueue`), and how many rows of the batch lane run, and when
(`lanes.LanePlanner`, from measured `run_times`). `types` holds the contract, `base` what the schedulers share; a new policy is one
file, and one line in `for_config`.

Import `for_config`, `types` and `lanes`.

Invariants: an item that was added leaves exactly once, in a batch, by `expire` or by `cancel`; a payload is never read. Imports
nothing else of `workers`.
"""

from __future__ import annotations

from typing import Any

from protocol.model_config.batching import DynamicBatching
from workers.batching.dynamic import DynamicBatcher
from workers.batching.types import Scheduler
from workers.batching.unbatched import NoBatching


def for_config(max_batch_size: int, dynamic: DynamicBatching | None) -> Scheduler[Any]:
    """The scheduler that a model's configuration asks for."""
    if dynamic is None or max_batch_size == 0:
        return NoBatching(max_batch_size)
    return DynamicBatcher(max_batch_size, dynamic)
