"""Measures Triton and ours in alternated rounds: the same generator, protocol, requests and model source.

Invariants: all servers of a scenario are up, and one is loaded; servers are on one core and the generator on another; every other
round takes the servers in the opposite order, so that neither is always the one after a pause. Before a server's points count, its
answers are compared with the model's and it is warm.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple

from loadtest import direct, machine, models, payloads, systems, warming, wrk
from loadtest.comparison import Comparison, Sample, ScenarioResult, Server
from loadtest.connections import HttpTarget
from loadtest.interpreters import Interpreter
from loadtest.payloads import Pool
from loadtest.processes import Meter, cores, on_core
from loadtest.run import closed_point
from loadtest.scenarios import BARE, SCENARIOS, TRITON, Scenario
from loadtest.systems import System
from loadtest.targets import get_json
from protocol.errors import FleetError, Unavailable

BATCH_SIZES: Final = (16, 32)
"""Of the bare loop; the better counts."""
CHECKED_CALLERS: Final = 8
ABOUT: Final = "about: "
"""Begins the line in which a server's start command may say what it runs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured; times in seconds.

    Attributes:
        interpreters: that run our servers, and Triton's Python models where its command names `{python}`; the first alone runs the
            fleet on Kafka.
        triton: the command that starts Triton (see `triton_command`); "" if there is none.
        scenarios: names of `SCENARIOS`.
        rounds: how often each point is measured.
        seconds: length of a point, whole; None for the scenario's own.
        warmup: of load on each server before anything counts.
        broker_warmup: maximum load on a fresh broker before anything counts: it ends when the broker becomes no faster.
        bare: length of the bare loop at each batch size, beside each number of callers.
    """

    interpreters: tuple[Interpreter, ...]
    triton: str = ""
    scenarios: tuple[str, ...] = tuple(SCENARIOS)
    rounds: int = 5
    seconds: int | None = None
    warmup: int = 3
    broker_warmup: float = 180.0
    bare: float = 0.7


def triton_command(choice: str) -> str:
    """A command with `{repository}`, `{port}`, and, if needed, `{python}` and `{free}` (any other port); given one, or the
    interpreter of an environment that has nvidia-pytriton.
    """
    if not choice or "{port}" in choice:
        return choice
    line = [sys.executable, "-m", "loadtest", "triton", "--packages", choice]
    options = "--python {python} --http-port {port} --metrics-port {free} {repository}"
    return f"{shlex.join(line)} {options}"


class _Contender(NamedTuple):
    server: Server
    system: System
    model: str


class Compare:
    """One run. `results` grows during the run; a scenario replaces that of an earlier run when it is complete.

    Raises:
        ModuleNotFoundError: onnx, onnxruntime or torch is missing.
    """

    def __init__(self, plan: Plan, folder: Path, results: Comparison, say: Callable[[str], None]) -> None:
        self.results = results
        self._plan = plan
        self._folder = folder
        self._say = say
        self._server_core, self._load_core = cores()

    def run(self) -> None:
        """Every scenario of the plan.

        Raises:
            FleetError: a server did not start, or gave a wrong answer.
        """
        for name in self._plan.scenarios:
            with on_core(self._load_core), contextlib.ExitStack() as stack:
                self._measure(SCENARIOS[name], stack)

    def _measure(self, scenario: Scenario, stack: contextlib.ExitStack) -> None:
        pool = self._pool(scenario)
        contenders = self._start(scenario, pool, stack)
        for contender in contenders:
            self._warm(contender, pool, max(scenario.callers))
        result = ScenarioResult(machine.commit(), machine.date())
        seconds = self._plan.seconds or scenario.seconds
        for index in range(self._plan.rounds):
            for callers in scenario.callers:
                points = [functools.partial(self._bare_loop, index, scenario.model, callers)] if scenario.bare else []
                for contender in contenders:
                    others = [other.system for other in contenders if other.system is not contender.system]
                    point = functools.partial(self._sample, index, contender, pool, callers, seconds, others)
                    points.append(point)
                for point in points if index % 2 == 0 else reversed(points):
                    sample = point()
                    self._say(f"{scenario.name}, round {index + 1}: {describe(sample)}")
                    result.samples.append(sample)
        self.results.scenarios[scenario.name] = result

    def _start(self, scenario: Scenario, pool: Pool, stack: contextlib.ExitStack) -> list[_Contender]:
        ours = models.write_repository(self._folder / scenario.name, [scenario.model, scenario.python_model])
        contenders: list[_Contender] = []
        for interpreter in self._plan.interpreters[: 1 if scenario.through_kafka else None]:
            if self._plan.triton and ("{python}" in self._plan.triton or not contenders):
                contenders += self._start_triton(scenario, pool, interpreter, stack)
            start = _long_running_fleet if scenario.through_kafka else systems.embedded
            begun = start(ours, self._server_core, scenario.model, pool, interpreter=interpreter)
            system = stack.enter_context(begun)
            for backend, model in (("python", scenario.python_model), ("onnx", scenario.model)):
                server = Server(scenario.role(backend), interpreter.version)
                contenders.append(_Contender(server, system, model))
        return contenders

    def _start_triton(
        self, scenario: Scenario, pool: Pool, interpreter: Interpreter, stack: contextlib.ExitStack
    ) -> list[_Contender]:
        """None if it does not start: an interpreter without a shared library cannot run it."""
        theirs = models.write_repository(self._folder / f"{scenario.name}-{TRITON}", [scenario.python_model])
        known = interpreter.version if "{python}" in self._plan.triton else ""
        about = f"Triton on Python {known}" if known else "Triton"
        first = (scenario.python_model, pool)
        rival = systems.rival(self._plan.triton, theirs, self._server_core, first, python=interpreter.path)
        try:
            system = stack.enter_context(rival)
        except Unavailable as exc:
            self.results.about[about] = f"did not start: {str(exc).strip().splitlines()[-1]}"
            self._say(f"{about} {self.results.about[about]}")
            return []
        said = [line.removeprefix(ABOUT) for line in system.log().splitlines() if line.startswith(ABOUT)]
        version = str(get_json(system.address(scenario.python_model), "/v2")["version"])
        self.results.about[about] = ", ".join([version, *said])
        return [_Contender(Server(TRITON, known), system, scenario.python_model)]

    def _pool(self, scenario: Scenario) -> Pool:
        model = models.ALL[scenario.model]
        reference = direct.load(models.write_repository(self._folder / "references", [model.name]) / model.name)
        if model.binary:
            return payloads.build_binary(model.inputs, model.outputs, reference)
        return payloads.build(model.inputs, reference=reference, tolerance=model.tolerance)

    def _warm(self, contender: _Contender, pool: Pool, callers: int) -> None:
        server, system, model = contender
        target = HttpTarget(system.address(model), pool)
        checked = closed_point(target, CHECKED_CALLERS, 1.0, 0.0)
        if checked.errors or not checked.rate:
            raise FleetError(
                f"{server.role}: {checked.errors} of its first answers were not right: {target.complaints}"
            )
        if system.kafka:
            warming.warm(system, model, pool, self._load_core, self._plan.broker_warmup)
        wrk.run(system.address(model), pool, callers=callers, seconds=self._plan.warmup, core=self._load_core)

    def _sample(  # a point's coordinates
        self, index: int, contender: _Contender, pool: Pool, callers: int, seconds: int, others: Sequence[System]
    ) -> Sample:
        server, system, model = contender
        address, core = system.address(model), self._load_core
        idle = list({id(other): other.meter for other in others}.values())
        before = machine.spin_ns(self._server_core)
        begin, idled = time.perf_counter(), _cpu(idle)
        with system.meter.window() as spent:
            point = wrk.run(address, pool, callers=callers, seconds=seconds, core=core)
        others_share = (_cpu(idle) - idled) / (time.perf_counter() - begin)
        return Sample(
            round=index,
            role=server.role,
            python=server.python,
            callers=callers,
            rate=point.rate,
            p50_ms=point.latency_ms["p50"],
            p99_ms=point.latency_ms["p99"],
            cpu_us={name: cpu * 1e6 / max(1.0, point.rate * point.seconds) for name, cpu in spent.items()},
            generator_us=point.generator_us,
            errors=point.errors,
            spin_ns=(before, machine.spin_ns(self._server_core)),
            others=others_share,
        )

    def _bare_loop(self, index: int, model: str, callers: int) -> Sample:
        """The model called directly, in a process of its own on the servers' core, while the servers idle."""
        line = [sys.executable, "-m", "loadtest", "direct", str(self._folder / "references"), model, "--json"]
        line += ["--duration", str(self._plan.bare)]
        line += [part for size in BATCH_SIZES for part in ("--size", str(size))]
        before = machine.spin_ns(self._server_core)
        with on_core(self._server_core):
            done = subprocess.run(line, capture_output=True, text=True, check=False)  # noqa: S603  # ours
        if done.returncode != 0:
            raise FleetError(f"{model} cannot be called directly: {done.stderr.strip()[-500:]}")
        rows = max(json.loads(done.stdout).values())
        spins = (before, machine.spin_ns(self._server_core))
        return Sample(index, BARE, "", callers, rows, 0.0, 0.0, {}, 0.0, 0, spins, 0.0)


def _long_running_fleet(
    repository: Path, core: int | None, model: str, pool: Pool, *, interpreter: Interpreter
) -> AbstractContextManager[System]:
    """With a broker whose JIT compiler runs as in production: slow for its first minutes, fast afterwards."""
    from infra.local.kafka import LONG_RUNNING

    return systems.fleet(repository, core, model, pool, jvm=LONG_RUNNING, interpreter=interpreter)


def _cpu(meters: Sequence[Meter]) -> float:
    return sum(sum(meter.cpu_seconds().values()) for meter in meters)


def describe(sample: Sample) -> str:
    """One line."""
    before, after = sample.spin_ns
    return (
        f"{sample.role} {sample.python}, {sample.callers} callers: {sample.rate:,.0f}/s, p50 {sample.p50_ms:.2f} ms, "
        f"p99 {sample.p99_ms:.2f} ms, CPU {sum(sample.cpu_us.values()):,.0f} µs, spin {before:.0f} and {after:.0f} ns"
        f"{', errors ' + str(sample.errors) if sample.errors else ''}{', unsteady' if sample.unsteady else ''}"
    )
