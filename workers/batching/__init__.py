"""Schedulers: which requests run together, and when. Pure: time is an argument.

`types` is the language, `policy_queue` the queue, `dynamic` and `alone` are the policies; a policy is one file and one line here.
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
