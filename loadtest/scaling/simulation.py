"""A day replayed: the deciders of `gateway/scaling` and of the other policies on a model of workers, without a clock. Pure.

Rows wait in one queue per model, first come first served, and flow through the ready workers at their speed. A worker costs from
its start on, is ready after the model's cold start, and ends at once: what it has begun it finishes within the tick. Every policy
looks each `SYNC` seconds, as a horizontal pod autoscaler does; ours is pushed when a request comes and there is no worker.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from gateway.scaling.drain import Demand, workers_needed
from gateway.scaling.pace import Pace, Progress
from gateway.scaling.wanted import ColdStart, Policy, WantedWorkers, reported
from infra.local.autoscaler import Autoscaler, Behaviour, Reading
from loadtest.scaling.results import POLICIES, SimulatedPolicy
from loadtest.scaling.signals import CPU_TARGET, lag_load
from loadtest.scaling.trace import TICK, ModelTrace

SYNC: Final = 15.0
SERVICE: Final = 0.25
"""Seconds that a row spends in a batch: so long it is not committed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """Settings of a simulation. Times are in seconds.

    Attributes:
        most: workers of a model, and partitions of its topic.
        window: the number of workers falls to the highest that was wanted in this time.
        target: within which our signal wants the backlog to be drained.
        deadline: rows that have waited so long at the begin of the tick in which they run are late.
        expected: our signal's cold start while none was measured.
    """

    most: int = 12
    window: float = 120.0
    target: float = 10.0
    deadline: float = 30.0
    expected: float = 60.0


@dataclasses.dataclass(slots=True)
class Now:
    """One model at one moment.

    Attributes:
        at: seconds.
        waiting: rows.
        served: rows so far.
        ran: rows in the last tick.
        replicas, ready: workers.
    """

    at: float = 0.0
    waiting: int = 0
    served: int = 0
    ran: int = 0
    replicas: int = 0
    ready: int = 0


class Decider(Protocol):
    """A policy for one model."""

    pushed: bool
    """Whether it is asked as soon as rows wait without a worker."""

    def decide(self, now: Now) -> int:
        """How many workers there should be."""
        ...


class Ours:
    """Our signal and an autoscaler that follows it: the deciders of `gateway/scaling`, put together as a scaler does."""

    def __init__(self, trace: ModelTrace, scene: Scene) -> None:
        self.pushed = True
        self._policy = Policy(scene.target, most=scene.most, window=scene.window, cold_start=scene.expected)
        self._wanted = WantedWorkers(self._policy)
        self._cold = ColdStart(self._policy.cold_start)
        self._pace = Pace()
        self._speed = trace.speed
        self._autoscaler = Autoscaler(Behaviour(0, scene.most, 0.0, 0.0))

    def decide(self, now: Now) -> int:
        """See `Decider`."""
        pace, policy = self._pace, self._policy
        pace.predict(self._speed)
        pace.observe(now.at, [Progress("all", now.served, self._speed, at=now.at)], now.waiting, 0)
        demand = Demand(now.waiting, 0, pace.arrival, pace.growth, pace.speed, pace.ran or now.waiting > 0)
        horizon = self._wanted.horizon(now.at, self._cold.seconds)
        need = workers_needed(demand, policy.target, policy.batch_target, horizon)
        wanted = self._wanted.decide(now.at, need, demand.busy, now.ready)
        self._cold.observe(now.at, wanted, now.ready)
        load = float(reported(wanted, now.ready))
        return self._autoscaler.decide(now.at, Reading(wanted > 0, load), now.replicas)


class Lag:
    """Kafka's committed lag: what waits, and what runs."""

    def __init__(self, trace: ModelTrace, scene: Scene) -> None:
        self.pushed = False
        self._partitions = scene.most
        self._autoscaler = Autoscaler(Behaviour(0, scene.most, scene.window, scene.window))

    def decide(self, now: Now) -> int:
        """See `Decider`."""
        total = now.waiting + round(now.ran / TICK * SERVICE)
        return self._autoscaler.decide(now.at, Reading(total > 0, lag_load(total, self._partitions)), now.replicas)


class Cpu:
    """CPU of the ready workers: a busy worker takes all that it asked for. One worker always runs."""

    def __init__(self, trace: ModelTrace, scene: Scene) -> None:
        self.pushed = False
        self._speed = trace.speed
        self._autoscaler = Autoscaler(Behaviour(1, scene.most, scene.window, scene.window))

    def decide(self, now: Now) -> int:
        """See `Decider`."""
        if not now.ready:
            return self._autoscaler.decide(now.at, None if now.replicas else Reading(True, 1.0), now.replicas)
        share = min(1.0, now.ran / (TICK * self._speed * now.ready))
        return self._autoscaler.decide(now.at, Reading(True, share / CPU_TARGET * now.replicas), now.replicas)


class Future:
    """Knows all arrivals: workers are ready when the rows come that need them, and no row waits that need not."""

    def __init__(self, trace: ModelTrace, scene: Scene) -> None:
        self.pushed = False
        self._plan = _plan(trace, scene)

    def decide(self, now: Now) -> int:
        """See `Decider`."""
        return self._plan.get(round(now.at / TICK), 0)


def _plan(trace: ModelTrace, scene: Scene) -> dict[int, int]:
    """Workers by tick: those that clear all that waits within its tick, as early as they have to start."""
    lead, per_tick = math.ceil(trace.cold / TICK), trace.speed * TICK
    plan: dict[int, int] = {}
    waiting, tick = 0, 0
    for tick in _ticks(trace, scene):
        waiting += trace.rows.get(tick, 0)
        use = min(scene.most, math.ceil(waiting / per_tick))
        waiting = max(0, waiting - math.floor(use * per_tick))
        for early in range(tick - lead, tick + 1):
            plan[early] = max(plan.get(early, 0), use)
    return plan


def _ticks(trace: ModelTrace, scene: Scene) -> Iterable[int]:
    """Those in which rows arrive, and those after them until all have run."""
    waiting, per_tick, after = 0, math.floor(scene.most * trace.speed * TICK), -1
    for tick in sorted(trace.rows):
        while waiting > 0 and after < tick:
            yield after
            waiting, after = waiting - per_tick, after + 1
        yield tick
        waiting, after = max(0, max(0, waiting) + trace.rows[tick] - per_tick), tick + 1
    while waiting > 0:
        yield after
        waiting, after = waiting - per_tick, after + 1


_DECIDERS: Final[dict[str, Callable[[ModelTrace, Scene], Decider]]] = {
    "ours": Ours,
    "lag": Lag,
    "cpu": Cpu,
    "future": Future,
}


class Waits:
    """Seconds that rows took, as counts in bins that grow by 2 %."""

    __slots__ = ("_counts", "late", "rows", "worst")

    def __init__(self) -> None:
        self._counts: collections.Counter[int] = collections.Counter()
        self.rows = self.late = 0
        self.worst = 0.0

    def add(self, first: float, last: float, rows: int, *, late: bool) -> None:
        """Rows whose waits spread evenly between two numbers of seconds."""
        self.rows += rows
        self.late += rows if late else 0
        self.worst = max(self.worst, first, last)
        parts = min(rows, 2)
        for part in range(parts):
            count = rows * (part + 1) // parts - rows * part // parts
            wait = first + (last - first) * (part + 0.5) / parts
            self._counts[math.floor(math.log(max(wait, 0.01)) / _BIN)] += count

    def merge(self, other: Waits) -> None:
        """Take in those of another model."""
        self._counts.update(other._counts)
        self.rows, self.late, self.worst = self.rows + other.rows, self.late + other.late, max(self.worst, other.worst)

    def percentile(self, share: float) -> float:
        """The wait that this share of the rows did not exceed; 0 without rows."""
        left = math.ceil(share * self.rows)
        for bin_, count in sorted(self._counts.items()):
            left -= count
            if left <= 0:
                return min(self.worst, math.exp((bin_ + 1) * _BIN))
        return self.worst


_BIN: Final = math.log(1.02)


class ModelRun:
    """One model under one policy.

    Attributes:
        waits: of its rows.
        worker_seconds, starts: of its workers.
        highest: number of workers.
        arrived: rows so far.
    """

    def __init__(self, trace: ModelTrace, scene: Scene, policy: str) -> None:
        self.waits = Waits()
        self._deadline = scene.deadline
        self.worker_seconds = 0.0
        self.starts = self.highest = self.arrived = 0
        self._trace = trace
        self._decider: Decider = _DECIDERS[policy](trace, scene)
        self._queue: collections.deque[list[float]] = collections.deque()  # each: came at, rows
        self._ready_at: list[float] = []  # by worker, ascending
        self._now = Now()

    def run(self, seconds: float) -> None:
        """Until everything that arrived has run, and at least so long."""
        every, last = round(SYNC / TICK), math.ceil(seconds / TICK)
        tick = min(-math.ceil(self._trace.cold / TICK) - 2 * every, 0) // every * every
        coming = iter(sorted(self._trace.rows))
        following = next(coming, last)
        while tick < last or self._queue:
            self._step(tick, sync=tick % every == 0)
            tick += 1
            while following < tick < last:
                following = next(coming, last)
            if not self._queue and not self._ready_at and isinstance(self._decider, Ours | Lag):
                tick = max(tick, following)  # nothing happens before

    def _step(self, tick: int, *, sync: bool) -> None:
        now, at = self._now, tick * TICK
        rows = self._trace.rows.get(tick, 0)
        if rows:
            self._queue.append([at, rows])
            now.waiting += rows
            self.arrived += rows
        now.at, now.replicas = at, len(self._ready_at)
        now.ready = sum(ready <= at for ready in self._ready_at)
        pushed = self._decider.pushed and not now.replicas and now.waiting
        if sync or pushed or isinstance(self._decider, Future):
            self._scale(self._decider.decide(now), at)
        self._serve(at)
        self.worker_seconds += len(self._ready_at) * TICK

    def _scale(self, wanted: int, at: float) -> None:
        for _ in range(wanted - len(self._ready_at)):
            self._ready_at.append(at + self._trace.cold)
            self.starts += 1
        del self._ready_at[max(0, wanted) :]  # the youngest last
        self.highest = max(self.highest, len(self._ready_at))

    def _serve(self, at: float) -> None:
        """Run what the workers can within the tick, those included that become ready in it."""
        speed = self._trace.speed
        able = sum(max(0.0, at + TICK - max(at, ready)) for ready in self._ready_at) * speed
        room = math.floor(able + 1e-6)
        now = self._now
        ran, begin, rate = 0, max(at, min(self._ready_at, default=at)), able / TICK
        while self._queue and room > ran:
            first = self._queue[0]
            count = int(min(first[1], room - ran))
            began, ended = begin + ran / rate, begin + (ran + count) / rate
            late = (
                at - first[0] >= self._deadline
            )  # by the tick, as what a policy with more workers does within it is chance
            self.waits.add(min(began, at + TICK) - first[0], min(ended, at + TICK) - first[0], count, late=late)
            ran += count
            first[1] -= count
            if not first[1]:
                self._queue.popleft()
        now.waiting -= ran
        now.served += ran
        now.ran = ran


def simulate(traces: Sequence[ModelTrace], scene: Scene, policy: str, seconds: float) -> SimulatedPolicy:
    """All models of a day under one policy, each with workers of its own.

    Raises:
        KeyError: there is no such policy.
    """
    waits, worker_seconds, starts = Waits(), 0.0, 0
    for trace in traces:
        run = ModelRun(trace, scene, policy)
        run.run(seconds)
        waits.merge(run.waits)
        worker_seconds += run.worker_seconds
        starts += run.starts
    return SimulatedPolicy(
        policy,
        waits.rows,
        waits.late,
        waits.percentile(0.5),
        waits.percentile(0.99),
        waits.worst,
        worker_seconds,
        starts,
    )


def simulate_all(traces: Sequence[ModelTrace], scene: Scene, seconds: float) -> list[SimulatedPolicy]:
    """Under each policy."""
    return [simulate(traces, scene, policy, seconds) for policy in POLICIES]
