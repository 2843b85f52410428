"""What interactive callers notice of a backlog in the batch lane, and what the backlog gets, for several bounds.

Every point is a pair: the same arrivals without and with a backlog, on the same fleet, one after the other.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from loadtest import direct, systems
from loadtest.connections import Address, HttpTarget
from loadtest.models import ALL
from loadtest.payloads import build
from loadtest.processes import cores
from loadtest.producers.backlog import backlog
from loadtest.producers.rows import arrays
from loadtest.results import OpenPoint
from loadtest.run import OpenPlan, open_point
from loadtest.systems import System

ROWS: Final = 256
"""Rows of each record of the backlog."""
BACKLOG: Final = 24
"""Records that are kept unanswered: more than the worker holds."""


@dataclasses.dataclass(frozen=True, slots=True)
class LanePair:
    """One pair of points.

    Attributes:
        bound_ms: `--batch-lane-max-ms`.
        load: interactive requests per second, as a share of what the model can answer one by one.
        alone, beside: interactive latency without and with the backlog.
        batch_rows_s: rows of the backlog per second.
        spare_rows_s: what the model could have answered in full batches in the time that interactive requests leave.
        execution_ms: what one execution at the maximum batch size takes.
    """

    bound_ms: float
    load: float
    alone: OpenPoint
    beside: OpenPoint
    batch_rows_s: float
    spare_rows_s: float
    execution_ms: float


@dataclasses.dataclass(frozen=True, slots=True)
class LanePlan:
    """What is measured. Seconds are of each point."""

    model: str = "mlp"
    bounds_ms: Sequence[float] = (5.0, 20.0, 50.0)
    loads: Sequence[float] = (0.1, 0.3)
    seconds: float = 12.0
    rounds: int = 1


def measure(cache: Path, plan: LanePlan, say: Callable[[str], None]) -> list[LanePair]:
    """Every bound on a fleet of its own."""
    model = ALL[plan.model]
    core, _ = cores()
    size = 32
    limits = direct.measure(cache / plan.model, model.inputs, 1.0, [1, size])
    limit = limits[size]
    pairs = []
    for bound in plan.bounds_ms:
        options = ["--batch-lane-max-ms", f"{bound:g}"]
        with systems.fleet(cache, core, plan.model, build(model.inputs, 8), options) as system:
            for turn in range(plan.rounds):
                for load in plan.loads:
                    pair = _pair(system, plan, load * limits[1], turn)
                    pairs.append(LanePair(bound, load, *pair, limit * (1 - load), size / limit * 1e3))
                    say(_line(pairs[-1]))
    return pairs


def _pair(system: System, plan: LanePlan, rate: float, seed: int) -> tuple[OpenPoint, OpenPoint, float]:
    open_plan = OpenPlan(rate, plan.seconds, 1.0, seed=seed)
    alone = _point(system, plan.model, open_plan)
    with backlog(system, plan.model, arrays(plan.model, ROWS), BACKLOG):
        (before, _), begin = system.counted(plan.model), time.perf_counter()
        beside = _point(system, plan.model, open_plan)
        rows, seconds = system.counted(plan.model)[0] - before, time.perf_counter() - begin
    return alone, beside, (rows - sum(beside.outcomes.values())) / seconds


def _point(system: System, model: str, plan: OpenPlan) -> OpenPoint:
    pool = build(ALL[model].inputs, 64)
    return open_point(HttpTarget(Address("127.0.0.1", system.port, model), pool), plan)


def _line(pair: LanePair) -> str:
    alone, beside = pair.alone.latency_ms, pair.beside.latency_ms
    return (
        f"bound {pair.bound_ms:g} ms, load {pair.load:.0%}: p50 {alone['p50']:.1f} -> {beside['p50']:.1f} ms, "
        f"p99 {alone['p99']:.1f} -> {beside['p99']:.1f} ms; backlog {pair.batch_rows_s:,.0f} of {pair.spare_rows_s:,.0f} rows/s"
    )
