"""A survey of our servers: the limit, the one-process fleet and the Kafka fleet, one after the other in one run.

Invariants: servers on one core, load on another; only one system runs at a time; the limit is taken right before and right after
each system's turn with a model, and the ratio uses the better of both, so that neither a slow minute of the machine flatters it nor
an earlier fast one spoils it; each point of the servers is also measured twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from loadtest import direct, disturbance, machine, models, payloads, safety, systems, warming, wrk
from loadtest.connections import HttpTarget
from loadtest.payloads import Pool
from loadtest.processes import cores, on_core
from loadtest.results import ClosedPoint, Idle, ModelResult, OpenPoint, Results, ServerResult, Soak
from loadtest.run import CheckedTarget, OpenPlan, closed_point, open_point
from loadtest.systems import System
from loadtest.targets import TargetChoice
from protocol.errors import FleetError

Start = Callable[[Path, int | None, str, Pool], AbstractContextManager[System]]
IDLE_SETTLE: Final = 10.0
"""Seconds for freshly loaded models to settle."""
IDLE_FOR: Final = 10.0


def long_running_fleet(repository: Path, core: int | None, model: str, pool: Pool) -> AbstractContextManager[System]:
    """With a broker whose JIT compiler runs as in production: slow for its first minutes, fast afterwards."""
    from infra.local.kafka import LONG_RUNNING

    return systems.fleet(repository, core, model, pool, jvm=LONG_RUNNING)


SYSTEMS: Final[dict[str, Start]] = {"embedded": systems.embedded, "fleet": long_running_fleet}


@dataclasses.dataclass(frozen=True, slots=True)
class SurveyPlan:
    """How much is measured; times in seconds.

    Attributes:
        models: names of `models.MODELS`.
        systems: names of `SYSTEMS`.
        warmup_s: load on each model before anything counts.
        broker_warmup_s: maximum load on a fresh broker before anything counts: it ends when the broker becomes no faster.
        callers: closed-loop points; "fleet" also gets `many`.
        many: the fleet's largest number of callers.
        closed_s: length of a closed-loop point.
        sweeps: how often each closed-loop point is measured; the one with the best rate counts.
        shares: open-loop rates as shares of the best closed-loop rate.
        open_s: length of an open-loop point.
        batch_sizes: of the limit.
        limit_s: length of the limit at each batch size.
        starts: how often the one-process fleet is started to time it; the other is started once.
        idle: how many idle models to load on the fleet; 0 for none.
        soak_s: length of the soak at half the best rate; 0 for none.
        disturbances: how often each is caused (`disturbance`); 0 for never.
        safety_s: CPU seconds for each row of `safety`; 0 for none.
        pinned: servers on one core and load on another.
    """

    models: tuple[str, ...] = tuple(models.MODELS)
    systems: tuple[str, ...] = tuple(SYSTEMS)
    warmup_s: float = 3.0
    broker_warmup_s: float = 180.0
    callers: tuple[int, ...] = (1, 4, 16, 32, 64)
    many: int = 256
    closed_s: float = 3.0
    sweeps: int = 2
    shares: tuple[float, ...] = (0.5, 0.8)
    open_s: float = 5.0
    batch_sizes: tuple[int, ...] = direct.BATCH_SIZES
    limit_s: float = 0.7
    starts: int = 3
    idle: int = 100
    soak_s: float = 0.0
    disturbances: int = 2
    safety_s: float = 2.0
    pinned: bool = True


QUICK: Final = SurveyPlan(
    models=("addsub", "mlp"),
    warmup_s=1.0,
    broker_warmup_s=12.0,
    callers=(1, 32),
    closed_s=2.0,
    sweeps=1,
    shares=(0.5,),
    open_s=2.0,
    batch_sizes=(16, 32),
    limit_s=0.5,
    starts=1,
    idle=0,
    disturbances=0,
    safety_s=0,
)
"""About a minute: enough to see a regression, too short to publish."""
GPU: Final = SurveyPlan(
    models=tuple(models.GPU_MODELS),
    broker_warmup_s=80.0,
    callers=(1, 16, 32, 64, 128),
    sweeps=1,
    shares=(0.5,),
    starts=1,
    idle=0,
    disturbances=0,
    safety_s=0,
    pinned=False,
)
"""For a GPU; not pinned, because one core for all servers would only show that core."""


class Survey:
    """One run. `results` grows during the run, so that an interrupted run keeps its results.

    Raises:
        ModuleNotFoundError: onnx, onnxruntime or torch is missing.
    """

    def __init__(self, plan: SurveyPlan, folder: Path, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._say = say
        self._folder = folder
        self._server_core, self._load_core = cores() if plan.pinned else (None, None)
        self.results = Results(about=machine.about(self._server_core, self._load_core))
        self._repository = models.write_repository(folder / "models", plan.models)
        self._pools = {name: _pool(models.ALL[name], direct.load(self._repository / name)) for name in plan.models}

    def run(self) -> None:
        """Everything that the plan names.

        Raises:
            FleetError: a server did not start, or gave a wrong answer.
        """
        with on_core(self._load_core):
            for name in self._plan.systems:
                self._measure_system(name)
            if self._plan.idle and "fleet" in self._plan.systems:
                self._measure_idle(self._plan.idle)
            if self._plan.safety_s:
                with on_core(self._server_core):
                    self.results.safety.extend(safety.measure(self._folder, self._plan.safety_s))
        if self._plan.disturbances and "fleet" in self._plan.systems:
            self.results.disturbances.extend(disturbance.measure(self._folder, self._plan.disturbances, self._say))

    def _measure_system(self, name: str) -> None:
        first = self._plan.models[0]
        server = self.results.servers[name] = self._measure_start(name)
        with SYSTEMS[name](self._repository, self._server_core, first, self._pools[first]) as system:
            server.memory_mib["all models loaded"] = system.memory_mib()
            if system.kafka:
                costs = warming.warm(system, first, self._pools[first], self._load_core, self._plan.broker_warmup_s)
                self._say(
                    f"broker warmed: its CPU per call, in the gateway's: {', '.join(f'{cost:.2f}' for cost in costs)}"
                )
            for model in self._plan.models:
                self._measure_limit(model, server)
                server.models[model] = self._measure_model(system, model)
                self._measure_limit(model, server)
            server.memory_mib["after all load"] = system.memory_mib()
            if system.kafka:
                self.results.servers["queue"] = self._measure_queue(system, first)
            if self._plan.soak_s:
                self._soak(system, first, server.models[first].best.rate / 2)

    def _measure_start(self, name: str) -> ServerResult:
        """With one small model: a framework's import would be most of the time and memory. The median of several starts."""
        repository = models.write_repository(self._folder / "start", ["addsub"])
        pool = payloads.build(models.MODELS["addsub"].inputs, 1)
        times: list[float] = []
        for _ in range(self._plan.starts if name == "embedded" else 1):
            with SYSTEMS[name](repository, self._server_core, "addsub", pool) as system:
                times.append(system.first_answer_s)
                memory = {"first answer, addsub alone": system.memory_mib()}
        self._say(f"{name}: first answer after {statistics.median(times):.2f} s (of {len(times)} starts)")
        return ServerResult(statistics.median(times), memory, {})

    def _measure_limit(self, model: str, server: ServerResult) -> None:
        """In a process of its own, on the servers' core, while the servers idle."""
        if not models.ALL[model].has_limit:
            return
        line = [sys.executable, "-m", "loadtest", "direct", str(self._repository), model, "--json"]
        line += ["--duration", str(self._plan.limit_s)]
        line += [part for size in self._plan.batch_sizes for part in ("--size", str(size))]
        with on_core(self._server_core):
            done = subprocess.run(line, capture_output=True, text=True, check=False)  # noqa: S603  # ours
        if done.returncode != 0:
            raise FleetError(f"{model} cannot be called directly: {done.stderr.strip()[-500:]}")
        found = {int(size): rate for size, rate in json.loads(done.stdout).items()}
        for known in (self.results.limits.setdefault(model, {}), server.limits.setdefault(model, {})):
            known.update({size: max(rate, known.get(size, 0.0)) for size, rate in found.items()})
        self._say(f"limit: {model}: {max(found.values()):,.0f} rows/s")

    def _measure_model(self, system: System, model: str) -> ModelResult:
        address, pool, core = system.address(model), self._pools[model], self._load_core
        wrk.run(address, pool, callers=32, seconds=self._plan.warmup_s, core=core)
        account = Account(system, model)
        best: dict[int, ClosedPoint] = {}
        for callers in self._plan.sweeps * (*self._plan.callers, *([self._plan.many] if system.kafka else [])):
            with account.window():
                measured = wrk.run(address, pool, callers=callers, seconds=self._plan.closed_s, core=core)
            point = self._closed(system.name, model, measured, account)
            best[callers] = max(point, best.get(callers, point), key=lambda point: point.rate)
        result = ModelResult(list(best.values()), [])
        for share in self._plan.shares:
            rate = share * result.best.rate
            plan = OpenPlan(rate, self._plan.open_s)
            result.open.append(self._open(system.name, model, HttpTarget(address, pool), plan, account))
        return result

    def _closed(self, name: str, model: str, point: ClosedPoint, account: Account) -> ClosedPoint:
        latency, batch = point.latency_ms, account.mean_batch()
        self._say(
            f"{name}: {model}, {point.callers} callers: {point.rate:,.0f}/s, p50 {latency['p50']:.2f} ms, "
            f"p99 {latency['p99']:.2f} ms, batch {batch:.1f}, errors {point.errors}"
        )
        return dataclasses.replace(point, cpu_us=account.cpu_us(point.rate * point.seconds), batch=batch)

    def _open(self, name: str, model: str, target: CheckedTarget, plan: OpenPlan, account: Account) -> OpenPoint:
        with account.window():
            point = open_point(target, plan)
        total = sum(point.outcomes.values()) * (plan.warmup + plan.duration) / plan.duration
        latency = point.latency_ms
        self._say(
            f"{name}: {model}, {plan.rate:,.0f}/s offered: {point.rate:,.0f}/s right, "
            f"p50 {latency.get('p50', 0.0):.2f} ms, p99 {latency.get('p99', 0.0):.2f} ms"
        )
        if point.outcomes["wrong"]:
            raise FleetError(f"{name} gave wrong answers for {model}: {point.complaints}")
        return dataclasses.replace(point, cpu_us=account.cpu_us(total), batch=account.mean_batch())

    def _measure_queue(self, system: System, model: str) -> ServerResult:
        """The same fleet without its gateway: our generator publishes to Kafka and reads Redis."""
        url = f"kafka://{system.kafka}"
        choice = TargetChoice(url, model, redis=system.redis, prefix=system.prefix, repository=self._repository)
        result, account = ModelResult([], []), Account(system, model)
        for callers in (32, self._plan.many):
            with account.window():
                point = closed_point(choice.open(), callers, self._plan.closed_s)
            result.closed.append(self._closed("queue", model, point, account))
        plan = OpenPlan(result.best.rate / 2, self._plan.open_s)
        result.open.append(self._open("queue", model, choice.open(), plan, account))
        return ServerResult(None, {}, {model: result})

    def _soak(self, system: System, model: str, rate: float) -> None:
        self._say(f"{system.name}: soak of {self._plan.soak_s:g} s at {rate:,.0f}/s")
        target = HttpTarget(system.address(model), self._pools[model])
        with sampled(system.memory_mib, max(1.0, self._plan.soak_s / 60)) as series:
            plan = OpenPlan(rate, self._plan.soak_s)
            point = self._open(system.name, model, target, plan, Account(system, model))
        self.results.soaks.append(Soak(system.name, model, point, series))

    def _measure_idle(self, count: int) -> None:
        names = models.write_copies(self._folder / "idle", count)
        pool = payloads.build(models.MODELS["addsub"].inputs, 1)
        with systems.fleet(self._folder / "idle", self._server_core, names[0], pool) as system:
            for name in names:
                systems.wait_until_ready(system.address(name))
            time.sleep(IDLE_SETTLE)
            with system.meter.window() as spent:
                time.sleep(IDLE_FOR)
            shares = {name: seconds / IDLE_FOR for name, seconds in spent.items()}
            self.results.idle.append(Idle(count, shares, system.memory_mib()))
            self._say(f"{count} idle models: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))


def _pool(model: models.BenchModel, reference: direct.Run) -> Pool:
    return payloads.build(model.inputs, reference=reference, tolerance=model.tolerance)


class Account:
    """What a load cost a system: CPU by process within `window`, rows and executions since the last call."""

    def __init__(self, system: System, model: str) -> None:
        self._system = system
        self._model = model
        self._spent: dict[str, float] = {}
        self._seen = system.executed(model)

    @contextlib.contextmanager
    def window(self) -> Iterator[None]:
        """The load happens in here."""
        with self._system.meter.window() as spent:
            yield
        self._spent = spent

    def cpu_us(self, requests: float) -> dict[str, float]:
        """Microseconds per request by process."""
        return {name: seconds * 1e6 / max(1.0, requests) for name, seconds in self._spent.items()}

    def mean_batch(self) -> float:
        """Mean rows per execution since the last call; 0 when nothing ran."""
        rows, executions = self._system.executed(self._model)
        seen, self._seen = self._seen, (rows, executions)
        return (rows - seen[0]) / (executions - seen[1]) if executions > seen[1] else 0.0


@contextlib.contextmanager
def sampled(read: Callable[[], dict[str, float]], interval: float) -> Iterator[list[dict[str, float]]]:
    """Reads on a thread every `interval` seconds while the block runs; rows of "seconds" and the readings."""
    rows: list[dict[str, float]] = []
    stop, begin = threading.Event(), time.monotonic()

    def sample() -> None:
        while not stop.wait(interval):
            rows.append({"seconds": time.monotonic() - begin, **read()})

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield rows
    finally:
        stop.set()
        thread.join()
