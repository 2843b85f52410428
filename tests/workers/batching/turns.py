"""A runner without I/O: it takes its turns at the scheduler's own times, so a test reads as a table of arrivals and batches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from protocol.model_config.batching import DynamicBatching, QueuePolicy
from workers.batching.dynamic import DynamicBatcher
from workers.batching.types import Item, Rejection, Scheduler

Arrival = tuple[float, Item[None]]

DELAY = 10.0
"""Seconds that the batchers below let the oldest request wait."""


@dataclasses.dataclass
class Played:
    """What left the scheduler: batches as (when, refs, rows, reason), the rest as (when, ref)."""

    batches: list[tuple[float, str, int, str]] = dataclasses.field(default_factory=list)
    expired: list[tuple[float, str]] = dataclasses.field(default_factory=list)
    rejected: list[tuple[float, str, Rejection]] = dataclasses.field(default_factory=list)

    def sizes(self) -> list[tuple[float, int]]:
        return [(when, rows) for when, _, rows, _ in self.batches]


def batcher(*preferred: int, delay: float = DELAY, maximum: int = 8, **policy: object) -> DynamicBatcher[None]:
    """At most `maximum` rows."""
    return DynamicBatcher(maximum, DynamicBatching(preferred, delay, **policy))  # type: ignore[arg-type]


def queue(
    *, policies: dict[int, QueuePolicy] | None = None, levels: int = 0, default: int = 0, **policy: object
) -> DynamicBatcher[None]:
    """L0_model_queue's model: preferred [4, 8], at most 32; the rest is the default queue policy."""
    return batcher(
        4, 8, maximum=32, priority_levels=levels, default_priority_level=default,
        default_queue_policy=QueuePolicy(**policy), priority_queue_policies=policies or {},  # type: ignore[arg-type]
    )  # fmt: skip


def item(ref: str, rows: int = 1, shape: str = "16", **attributes: Any) -> Item[None]:
    attributes.setdefault("enqueued", 0.0)
    return Item(ref, rows, (shape,), None, **attributes)


def at(when: float, ref: str, rows: int = 1, shape: str = "16", **attributes: Any) -> Arrival:
    return when, item(ref, rows, shape, enqueued=when, **attributes)


def play(scheduler: Scheduler[None], arrivals: Sequence[Arrival], *, busy_until: float = 0.0) -> Played:
    """Play until nothing is left to wait for. The one instance is busy until `busy_until`, then runs every batch in no time."""
    played, coming, now, staged = Played(), sorted(arrivals, key=lambda arrival: arrival[0]), 0.0, None
    while True:
        while coming and coming[0][0] <= now:
            _, arriving = coming.pop(0)
            rejection = scheduler.add(arriving, now)
            if rejection is not None:
                played.rejected.append((now, arriving.ref, rejection))
        played.expired += [(now, gone.ref) for gone in scheduler.expire(now)]
        idle = now >= busy_until
        if staged is None and not idle:
            staged = scheduler.take(now, idle=False)
        while idle and (batch := staged or scheduler.take(now)) is not None:
            staged = None
            refs = " ".join(queued.ref for queued in batch.items)
            played.batches.append((now, refs, batch.rows, batch.reason.value))
        times = [coming[0][0] if coming else None, None if idle else busy_until, scheduler.wake_at(idle=idle)]
        wake = min((when for when in times if when is not None), default=math.inf)
        if wake == math.inf:
            return played
        assert wake > now, "the scheduler asks to be called again at once"
        now = wake
