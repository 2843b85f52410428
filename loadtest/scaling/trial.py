"""The trial: each policy has the whole load to itself, on the same fleet, one after the other.

Invariant: a request counts exactly once, by its due time; a run ends when the last request is answered or given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import math
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from infra.local.autoscaler import Autoscaler, Behaviour, Reading
from infra.local.scaler import LocalScaler, PushSignal, Signal, Workers
from loadtest.openloop import Target, open_loop
from loadtest.samples import Outcome
from loadtest.scaling.bench import Bench, Calibration, bench, calibrate, until
from loadtest.scaling.future import plan
from loadtest.scaling.load import Phases
from loadtest.scaling.results import POLICIES, PolicyRun, ShapeResult, Trial
from loadtest.scaling.signals import CpuSignal, FutureSignal, LagSignal
from loadtest.scaling.waking import wakes
from loadtest.waiting import MODEL
from protocol.errors import FleetError
from protocol.transport import open_transport
from protocol.transport.settings import TransportSettings

SAMPLE_EVERY: Final = 0.5
TAIL_SECONDS: Final = 2.0
"""Of the windows whose p99 is drawn."""
GRACE: Final = 120.0
"""Seconds that answers may take after the last request was due."""
CPU_LEAD: Final = 2.0
"""Seconds besides a cold start that the policy with a worker at all times gets before the load."""

Decide = Callable[[float, Reading | None, int], int]
Row = tuple[float, float, Outcome]
"""Of a request: when it was due and when it ended, and how."""


@dataclasses.dataclass(frozen=True, slots=True)
class TrialPlan:
    """What is run. Times are in seconds.

    Attributes:
        phases: of the load.
        most: workers.
        window: the number of workers falls to the highest that was wanted in this time.
        every: between two looks at a signal.
        drain: our signal's target.
        deadline: requests that take longer count as late; they are answered all the same.
        calibration: seconds under full load.
        wakes: how often the way from zero workers is measured.
    """

    phases: Phases = dataclasses.field(default_factory=Phases)
    policies: tuple[str, ...] = POLICIES
    most: int = 6
    window: float = 5.0
    every: float = 1.0
    drain: float = 2.5
    deadline: float = 5.0
    wakes: int = 10
    calibration: float = 5.0
    seed: int = 0


class Rows:
    """A `Recorder` that keeps every request."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def record(self, intended: float, sent: float, finished: float, outcome: Outcome) -> None:
        """See `Recorder.record`."""
        self.rows.append((intended, finished, outcome))


def run_trial(
    plan: TrialPlan, place: Path, say: Callable[[str], None], environ: Mapping[str, str] = os.environ
) -> Trial:
    """Everything.

    Args:
        place: folder for the servers' files.
        environ: may name a broker and a store.
        say: gets a line for each finished part.

    Raises:
        FleetError: a process does not start.
    """
    from loadtest.machine import about

    facts = about(None, None)
    with bench(place, environ) as running:
        return asyncio.run(_run(plan, running, facts, say))


async def _run(plan: TrialPlan, running: Bench, about: dict[str, str], say: Callable[[str], None]) -> Trial:
    known = await calibrate(running, plan.most, plan.calibration)
    say(
        f"a worker: {known.speed:.1f} rows/s, {known.cpu:.3f} CPU, ready after {known.cold.one:.1f} s alone and "
        f"{known.cold.several:.1f} s with {known.cold.count - 1} others"
    )
    woken = await wakes(running, plan.wakes, say) if plan.wakes else []
    runs = []
    for policy in plan.policies:
        runs.append(await run_policy(plan, running, known, policy))
        say(_line(runs[-1]))
    facts = {
        "speed": known.speed, "cpu": known.cpu, "cold start": known.cold.one, "cold start together": known.cold.several,
        "peak": plan.phases.peak, "most": plan.most, "window": plan.window, "every": plan.every, "drain": plan.drain,
        "deadline": plan.deadline, "ramp ends": plan.phases.ramp_ends, "step begins": plan.phases.ramp_ends + plan.phases.gap,
        "step ends": plan.phases.ramp_ends + plan.phases.gap + plan.phases.step,
    }  # fmt: skip
    return Trial(runs, woken, facts, about)


async def run_policy(plan: TrialPlan, running: Bench, known: Calibration, policy: str) -> PolicyRun:
    """One policy's trial.

    Raises:
        FleetError: a worker cannot be started.
    """
    await until(functools.partial(_is_idle, running), 60.0, "the workers before to be gone, with their work")
    workers, recorder = Workers(running.make_worker), Rows()
    begin = time.perf_counter() + _lead(plan, known, policy)
    samples: list[tuple[float, int, int, int, float | None]] = []
    target = running.target()
    try:
        async with _signal(plan, running, known, policy, workers, begin) as (signal, decide):
            scaling = asyncio.ensure_future(LocalScaler(workers, signal, decide, plan.every).run())
            sampling = asyncio.ensure_future(_sample(running, workers, begin, samples))
            try:
                await _first(scaling, _play(plan, target, recorder, begin))
            finally:
                for task in (scaling, sampling):
                    task.cancel()
                await asyncio.gather(scaling, sampling, return_exceptions=True)
        end = time.perf_counter()
    finally:
        await workers.close()
    return _result(plan, policy, recorder.rows, workers, begin, end, samples, dict(target.complaints))


def _is_idle(running: Bench) -> bool:
    """Whether nobody is there, and nothing that a reading of the log still shows as waiting wants somebody."""
    state = running.state()
    return (state["ready_workers"], state["wanted_workers"]) == (0, 0)


def _lead(plan: TrialPlan, known: Calibration, policy: str) -> float:
    """Seconds before the load in which a policy may start workers."""
    if policy == "future":
        return known.cold.seconds(plan.most) + 1.0
    return known.cold.one + CPU_LEAD if policy == "cpu" else 1.0


async def _first(scaling: asyncio.Future[None], work: asyncio.Future[None]) -> None:
    """Wait for the work; an error of the scaler ends both."""
    await asyncio.wait((scaling, work), return_when=asyncio.FIRST_COMPLETED)
    if scaling.done():
        work.cancel()
        scaling.result()
    await work


def _play(plan: TrialPlan, target: Target, recorder: Rows, begin: float) -> asyncio.Future[None]:
    async def work() -> None:
        load = plan.phases.load()
        await asyncio.sleep(begin - time.perf_counter())
        await open_loop(target, load.arrivals(plan.seed), recorder, width=8, grace=GRACE)
        await asyncio.sleep(max(0.0, begin + load.seconds - time.perf_counter()))

    return asyncio.ensure_future(work())


@contextlib.asynccontextmanager
async def _signal(
    plan: TrialPlan, running: Bench, known: Calibration, policy: str, workers: Workers, begin: float
) -> AsyncIterator[tuple[Signal, Decide]]:
    """What a policy looks at, and how it decides."""
    usual = Behaviour(0, plan.most, plan.window, plan.window)
    if policy == "ours":  # its window is the scaler's: two would add up
        metadata = {
            "drainTargetSeconds": str(plan.drain), "maxReplicas": str(plan.most), "scaleDownWindowSeconds": str(plan.window),
            "coldStartSeconds": f"{known.cold.one:.2f}",
        }  # fmt: skip
        async with PushSignal(running.scaler, MODEL, **metadata) as signal:
            yield signal, Autoscaler(Behaviour(0, plan.most, 0.0, 0.0)).decide
    elif policy == "lag":
        settings = TransportSettings(
            kafka=running.backing.kafka, redis=running.backing.redis, prefix=running.names.prefix
        )
        async with open_transport(settings) as transport:
            topic = running.names.infer_topic(MODEL, "1")
            yield LagSignal(transport.bus, topic), Autoscaler(usual).decide
    elif policy == "cpu":
        yield CpuSignal(workers, known.cpu), Autoscaler(dataclasses.replace(usual, least=1)).decide
    elif policy == "future":
        load = plan.phases.load()
        changes = plan_of(plan, known)
        assert changes, load
        yield FutureSignal(changes, lambda: time.perf_counter() - begin), _obey
    else:
        raise FleetError(f"there is no policy '{policy}'; there are {', '.join(POLICIES)}")


def plan_of(plan_: TrialPlan, known: Calibration) -> list[tuple[float, int]]:
    """What the policy that knows the future does."""
    load = plan_.phases.load()
    return plan(load.rate, load.seconds, known.speed, plan_.most, known.cold)


def _obey(now: float, reading: Reading | None, replicas: int) -> int:
    return replicas if reading is None else round(reading.load)


async def _sample(
    running: Bench, workers: Workers, begin: float, samples: list[tuple[float, int, int, int, float | None]]
) -> None:
    while True:
        drain = None
        with contextlib.suppress(FleetError):
            said = (await asyncio.to_thread(running.state))["time_to_drain_ms"]
            drain = None if said is None else said / 1e3
        samples.append((time.perf_counter() - begin, 0, len(workers.alive), len(workers.ready), drain))
        await asyncio.sleep(SAMPLE_EVERY)


# --- what was found ---------------------------------------------------------------------------------------------------


def _result(  # noqa: PLR0913  # all that was seen
    plan: TrialPlan,
    policy: str,
    rows: Sequence[Row],
    workers: Workers,
    begin: float,
    end: float,
    samples: list[tuple[float, int, int, int, float | None]],
    complaints: dict[str, int],
) -> PolicyRun:
    spans = [(worker.started - begin, min(worker.ended or end, end) - begin) for worker in workers.all]
    cut = plan.phases.ramp_ends + plan.phases.gap / 2
    parts = {"ramp": (-math.inf, cut), "step": (cut, math.inf)}
    shapes = {}
    for name, (low, high) in parts.items():
        chosen = [row for row in rows if plan.phases.shape(row[0]) == name]
        seconds = sum(max(0.0, min(until_, high) - max(since, low)) for since, until_ in spans)
        if chosen:
            starts = sum(low <= since < high for since, _ in spans)
            shapes[name] = shape_result(chosen, plan.deadline, seconds, starts)
    statuses = Counter("starting" if worker.ready is None else str(worker.status) for worker in workers.all)
    seen = [(at, unanswered(rows, at), there, ready, drain) for at, _, there, ready, drain in samples]
    last = max((ended for _, ended, _ in rows), default=0.0)
    return PolicyRun(policy, shapes, _rounded(seen), tails(rows), dict(statuses), complaints, last)


def _rounded(
    samples: Sequence[tuple[float, int, int, int, float | None]],
) -> list[tuple[float, int, int, int, float | None]]:
    return [
        (round(at, 2), waiting, there, ready, None if drain is None else round(drain, 2))
        for at, waiting, there, ready, drain in samples
    ]


def unanswered(rows: Sequence[Row], at: float) -> int:
    """Requests that were due and not answered at this time."""
    return sum(due <= at < ended for due, ended, _ in rows)


def shape_result(rows: Sequence[Row], deadline: float, worker_seconds: float, starts: int) -> ShapeResult:
    """Of the requests of one shape, at least one."""
    waits = sorted(ended - due for due, ended, _ in rows)
    outcomes = Counter(outcome.value for _, _, outcome in rows)
    late = sum(ended - due > deadline or outcome is not Outcome.OK for due, ended, outcome in rows)
    return ShapeResult(
        len(rows),
        dict(outcomes),
        percentile(waits, 0.5),
        percentile(waits, 0.99),
        waits[-1],
        late,
        worker_seconds,
        starts,
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that this share of the ordered ones does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def tails(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """The p99 of the requests that were due in each window of `TAIL_SECONDS`, at the window's middle."""
    windows: dict[int, list[float]] = {}
    for due, ended, _ in rows:
        windows.setdefault(int(due / TAIL_SECONDS), []).append(ended - due)
    return [
        ((number + 0.5) * TAIL_SECONDS, round(percentile(sorted(waits), 0.99), 4))
        for number, waits in sorted(windows.items())
    ]


def _line(run: PolicyRun) -> str:
    shapes = ", ".join(
        f"{name}: {shape.worker_seconds:.0f} worker-s, p99 {shape.p99:.2f} s, worst {shape.worst:.2f} s, {shape.late} late of "
        f"{shape.requests}"
        for name, shape in run.shapes.items()
    )
    return f"{run.policy:6} {shapes}; not answered {run.unanswered}, exits {run.statuses}"
