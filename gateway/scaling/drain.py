"""When a backlog is drained, and how many workers drain it in time. Pure.

Rows, seconds, and rows per second. A new worker is useful only after its cold start, so the backlog that counts is the one that
will be there then: work that the present workers finish by that time needs no new worker.
"""

from __future__ import annotations

import dataclasses
from typing import Final

UTILISATION: Final = 0.8
"""Share of a worker's speed that arriving rows may take; queues grow without bound as it nears 1."""


@dataclasses.dataclass(frozen=True, slots=True)
class Demand:
    """The work of one model version.

    Attributes:
        rows: unanswered, of the interactive lane.
        batch_rows: unanswered, of the batch lane.
        arrival: rows per second that arrive in the interactive lane.
        growth: by how many rows per second `rows` grows; negative while it shrinks.
        speed: rows per second of one worker; 0 if unknown.
        busy: whether a request is unanswered, or was answered since the last look.
    """

    rows: int = 0
    batch_rows: int = 0
    arrival: float = 0.0
    growth: float = 0.0
    speed: float = 0.0
    busy: bool = False


def time_to_drain(rows: int, rate: float, speed: float, cold_start: float) -> float | None:
    """Seconds until this many rows have run; None if no speed is known.

    Args:
        rows: that wait.
        rate: rows per second of the ready workers together; 0 without one.
        speed: of one worker, which starts if none is ready.
        cold_start: seconds until a new worker is ready.
    """
    if rows <= 0:
        return 0.0
    if rate > 0:
        return rows / rate
    return cold_start + rows / speed if speed > 0 else None


def workers_needed(demand: Demand, target: float, batch_target: float, horizon: float) -> float:
    """How many workers the work needs, as a fraction: several models may share a worker.

    Args:
        target: seconds within which the backlog of the interactive lane is to be drained.
        batch_target: the same of the batch lane.
        horizon: seconds until workers that are started now, or were started before and are not ready yet, are ready.
    """
    if (
        not demand.busy
    ):  # the arrival that is still remembered is over; a window holds workers, not the memory of a rate
        return 0.0
    if demand.speed <= 0:
        return 1.0
    waiting = max(0.0, demand.rows + demand.growth * horizon)
    rate = demand.arrival / UTILISATION + waiting / target + demand.batch_rows / batch_target
    return rate / demand.speed
