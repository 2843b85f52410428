"""One run of our own generator against one target, on an event loop of its own, turned into a result."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import sys
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TextIO

from loadtest import arrivals
from loadtest.openloop import Target, closed_loop, open_loop
from loadtest.results import ClosedPoint, OpenPoint
from loadtest.samples import Outcome, Samples


class CheckedTarget(Target, Protocol):
    """A target that checks answers and records their errors."""

    @property
    def complaints(self) -> collections.Counter[str]:
        """Distinct reasons with their counts."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class OpenPlan:
    """An open-loop run.

    Attributes:
        rate: requests due per second.
        duration: measured seconds.
        warmup: unmeasured seconds before those, with the same arrivals.
        process: a name of `arrivals.PROCESSES`.
        seed: of the arrivals.
        slo_ms: goodput counts right answers within this time.
    """

    rate: float
    duration: float
    warmup: float = 1.0
    process: str = "poisson"
    seed: int = 0
    slo_ms: float = 50.0


def open_point(target: CheckedTarget, plan: OpenPlan, rows: TextIO | None = None) -> OpenPoint:
    """Run the plan; with `rows`, also write one JSON line per measured request."""
    total = plan.warmup + plan.duration
    times = arrivals.schedule(plan.process, plan.rate, total, plan.seed)
    samples = Samples(plan.warmup, rows)
    cpu = on_fresh_loop(open_loop(target, times, samples))
    ok = samples.outcomes[Outcome.OK]
    within = samples.latency.share_within(plan.slo_ms / 1e3) if ok else 0.0
    summary = samples.summary()
    return OpenPoint(
        arrivals=plan.process,
        offered=plan.rate,
        seconds=plan.duration,
        rate=ok / plan.duration,
        goodput=ok * within / plan.duration,
        slo_ms=plan.slo_ms,
        outcomes=summary["outcomes"],
        latency_ms=summary["latency_ms"],
        lateness_ms=summary["lateness_ms"],
        curve_ms=samples.latency.curve_ms(),
        generator_us=cpu * 1e6 * plan.duration / total / max(1, samples.total),
        complaints=dict(target.complaints),
    )


def closed_point(target: CheckedTarget, callers: int, duration: float, warmup: float = 1.0) -> ClosedPoint:
    """`callers` at once for warm-up and duration (seconds); every answer is checked, a wrong one counts as an error."""
    samples = Samples(warmup)
    on_fresh_loop(closed_loop(target, callers, warmup + duration, samples))
    ok = samples.outcomes[Outcome.OK]
    return ClosedPoint(callers, duration, ok / duration, samples.latency.summary_ms(), samples.total - ok)


def on_fresh_loop(work: Coroutine[Any, Any, None]) -> float:
    """Run to the end on a new event loop (uvloop if installed); the CPU seconds that this process took."""
    begin = time.process_time()
    if sys.platform == "win32":
        asyncio.run(work)
    else:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)
    return time.process_time() - begin
