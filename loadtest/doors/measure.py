"""Measures Triton and ours in alternated rounds: the same Python model, messages, generator and core.

Invariants: all servers are up and one is loaded; servers are on one core and the generator on another; every other round takes the
servers in the opposite order; a server's answer was compared with the model's before its points count.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from loadtest import direct, models, systems, wrk
from loadtest.doors import calls, h2load
from loadtest.doors.h2load import Unary
from loadtest.doors.results import DoorPoint
from loadtest.interpreters import Interpreter
from loadtest.payloads import Pool
from loadtest.processes import cores, on_core
from loadtest.results import ClosedPoint
from loadtest.systems import System

TRITON: Final = "triton"
CHECK_S: Final = 1


@dataclasses.dataclass(frozen=True, slots=True)
class DoorPlan:
    """What one part measures.

    Attributes:
        part: its name on the page.
        models: of `loadtest.models`; the servers run the Python models of the same answers.
        protocols: "http", "grpc" or both.
        callers: numbers of connections.
        servers: besides Triton: "embedded", "fleet".
        rounds: how often each point is measured.
        seconds: length of a point.
    """

    part: str
    models: tuple[str, ...]
    protocols: tuple[str, ...]
    callers: tuple[int, ...]
    servers: tuple[str, ...] = ("embedded",)
    rounds: int = 5
    seconds: int = 3


PLANS: Final = {
    plan.part: plan
    for plan in (
        DoorPlan("grpc", ("addsub",), ("grpc", "http"), (1, 32)),
        DoorPlan("large", ("image", "image-8mb"), ("http", "grpc"), (1, 8), ("embedded", "fleet"), rounds=3),
    )
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Door:
    """One server's model behind one protocol."""

    server: str
    system: System
    protocol: str
    model: str
    pool: Pool
    call: Unary | None

    def load(self, callers: int, seconds: int, core: int | None) -> ClosedPoint:
        if self.call is not None:
            return h2load.run(self.call, callers=callers, seconds=seconds, core=core)
        address = self.system.address(f"{self.model}-python")
        return wrk.run(address, self.pool, callers=callers, seconds=seconds, core=core)


def measure(
    plan: DoorPlan, triton: str, interpreter: Interpreter, folder: Path, say: Callable[[str], None]
) -> list[DoorPoint]:
    """All points of a part.

    Args:
        triton: the command that starts it, with `{grpc}` for its gRPC port; "" for none.
        interpreter: runs our servers.
        folder: for models.

    Raises:
        FleetError: a server did not start, or gave a wrong answer.
    """
    server_core, load_core = cores()
    names = [f"{model}-python" for model in plan.models]
    repository = models.write_repository(folder / plan.part, names)
    points: list[DoorPoint] = []
    with on_core(load_core), contextlib.ExitStack() as stack:
        pools = {model: _pool(model, folder) for model in plan.models}
        first = (names[0], pools[plan.models[0]])
        servers: dict[str, tuple[System, int]] = {}
        if triton:
            port = systems.free_port()
            line = triton.replace("{grpc}", str(port))
            servers[TRITON] = (
                stack.enter_context(systems.rival(line, repository, server_core, first, python=interpreter.path)),
                port,
            )
        for name in plan.servers:
            port = systems.free_port()
            begin = systems.embedded if name == "embedded" else systems.fleet
            options = ["--grpc-port", str(port)]
            servers[name] = (
                stack.enter_context(
                    begin(repository, server_core, *first, gateway_options=options, interpreter=interpreter)
                ),
                port,
            )
        doors = [
            _door(name, system, protocol, model, pools[model], port)
            for model in plan.models
            for protocol in plan.protocols
            for name, (system, port) in servers.items()
        ]
        for door in doors:
            door.load(max(plan.callers), CHECK_S, load_core)
        for index in range(plan.rounds):
            for model in plan.models:
                for protocol in plan.protocols:
                    for callers in plan.callers:
                        row = [door for door in doors if (door.model, door.protocol) == (model, protocol)]
                        for door in row if index % 2 == 0 else reversed(row):
                            point = _point(index, plan, door, callers, load_core)
                            say(described(point))
                            points.append(point)
    return points


def _pool(model: str, folder: Path) -> Pool:
    reference = direct.load(models.write_repository(folder / "references", [model]) / model)
    return calls.pool_of(models.ALL[model], reference)


def _door(server: str, system: System, protocol: str, model: str, pool: Pool, port: int) -> _Door:
    call = calls.unary(port, f"{model}-python", pool, model) if protocol == "grpc" else None
    return _Door(server, system, protocol, model, pool, call)


def _point(index: int, plan: DoorPlan, door: _Door, callers: int, core: int | None) -> DoorPoint:
    with door.system.meter.window() as spent:
        point = door.load(callers, plan.seconds, core)
    requests = max(1.0, point.rate * plan.seconds)
    return DoorPoint(
        index, plan.part, door.server, door.protocol, door.model, callers, point.rate, point.latency_ms["p50"],
        point.latency_ms["p99"], {name: cpu * 1e6 / requests for name, cpu in spent.items()}, point.generator_us,
        point.errors, 2 * _megabytes(door.model),
    )  # fmt: skip


def _megabytes(model: str) -> float:
    sizes: Sequence[int] = models.ALL[model].inputs[0].shape
    count = 4
    for size in sizes:
        count *= size
    return count / 1e6


def described(point: DoorPoint) -> str:
    """One line."""
    return (
        f"{point.part}, round {point.round + 1}: {point.server} {point.protocol} {point.model}, {point.callers} callers: "
        f"{point.rate:,.0f}/s, p50 {point.p50_ms:.2f} ms, p99 {point.p99_ms:.2f} ms, CPU {sum(point.cpu_us.values()):,.0f} µs"
        f"{', errors ' + str(point.errors) if point.errors else ''}"
    )
