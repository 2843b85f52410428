"""Routing by queue against spreading, for real: two gateways that differ in nothing else take turns on one fleet of two workers.

The model waits instead of computing, as a host waits for an accelerator, so that two workers on one core run side by side: a batch
of up to eight rows takes `BATCH_SECONDS`. Its capacity is nominal: full batches without a pause between them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from loadtest.connections import HttpTarget
from loadtest.processes import ServerProcess, cores, on_core
from loadtest.run import OpenPlan, open_point
from loadtest.samples import Outcome
from loadtest.systems import System, fleet, free_port, wait_for_answer
from loadtest.tables import table
from loadtest.waiting import MODEL, requests, write_model
from protocol.errors import FleetError, Unavailable
from protocol.transport import open_transport
from protocol.transport.settings import TransportSettings

MAX_BATCH: Final = 8
BATCH_SECONDS: Final = 0.08
WORKERS: Final = 2
CAPACITY: Final = WORKERS * MAX_BATCH / BATCH_SECONDS
"""Rows per second."""
KINDS: Final = ("spread", "queue")


@dataclasses.dataclass(frozen=True, slots=True)
class RoutingPoint:
    """One point.

    Attributes:
        load: share of the nominal capacity.
        kind: "queue" or "spread".
        round: points of the same load and round are compared.
        mean_batch: rows per batch, with the warm-up.
        p50_ms, p99_ms: of right answers, from the due time.
        rate: right answers per second.
        errors: requests without one.
        cpu_us: CPU microseconds per request of all servers.
    """

    load: float
    kind: str
    round: int
    mean_batch: float
    p50_ms: float
    p99_ms: float
    rate: float
    errors: int
    cpu_us: float


def measure(loads: Sequence[float], rounds: int, seconds: float, say: Callable[[str], None]) -> list[RoutingPoint]:
    """All points of these loads; the two kinds are measured in turn, each round in the other order.

    Raises:
        Unavailable: a server does not start.
    """
    points = []
    server_core, load_core = cores()
    with _two_gateways(server_core) as gateways, on_core(load_core):
        for number in range(rounds):
            for load in loads:
                for kind in KINDS if number % 2 else reversed(KINDS):
                    system, target = gateways[kind]
                    points.append(
                        _point(system, target, OpenPlan(load * CAPACITY, seconds, 3.0, seed=number), kind, number)
                    )
                    say(_line(points[-1]))
    return points


def _point(system: System, target: HttpTarget, plan: OpenPlan, kind: str, number: int) -> RoutingPoint:
    before, cpu = system.executed(MODEL), sum(system.meter.cpu_seconds().values())
    point = open_point(target, plan)
    cpu = sum(system.meter.cpu_seconds().values()) - cpu
    rows, batches = (now - then for now, then in zip(system.executed(MODEL), before, strict=True))
    right = point.outcomes.get(Outcome.OK.value, 0)
    return RoutingPoint(
        round(plan.rate / CAPACITY, 3), kind, number, rows / batches, point.latency_ms["p50"], point.latency_ms["p99"],
        point.rate, sum(point.outcomes.values()) - right, cpu / rows * 1e6,
    )  # fmt: skip


@contextlib.contextmanager
def _two_gateways(core: int | None) -> Iterator[dict[str, tuple[System, HttpTarget]]]:
    """A fleet of two workers that own two partitions each, and a gateway of each kind."""
    from infra.local.kafka import UNPAUSED

    with tempfile.TemporaryDirectory(prefix="penstock-routing-") as place, contextlib.ExitStack() as stack:
        repository = write_model(Path(place), MAX_BATCH, BATCH_SECONDS)
        pool = requests()
        options = ["--routing", KINDS[0]]
        first = stack.enter_context(fleet(repository, core, MODEL, pool, gateway_options=options, jvm=UNPAUSED))
        transport = ["--kafka", first.kafka, "--redis", first.redis, "--prefix", first.prefix]
        worker = ServerProcess(
            ["-m", "penstock", "worker", "--model-repository", str(repository), *transport, "--metrics-port", "0"], core
        )
        stack.callback(worker.stop)
        port = free_port()
        line = [
            "-m",
            "penstock",
            "gateway",
            *transport,
            "--http-port",
            str(port),
            "--grpc-port",
            "off",
            "--metrics-port",
            "0",
        ]
        gateway = ServerProcess([*line, "--routing", KINDS[1]], core)
        stack.callback(gateway.stop)
        second = dataclasses.replace(first, port=port)
        wait_for_answer(second.address(MODEL), pool, {"gateway": gateway, "worker": worker})
        _wait_for_partitions(first)
        yield {
            kind: (system, HttpTarget(system.address(MODEL), pool))
            for kind, system in zip(KINDS, (first, second), strict=True)
        }


def _wait_for_partitions(system: System, within: float = 30.0) -> None:
    """Return when the workers share the partitions.

    Raises:
        Unavailable: not within this many seconds.
    """
    deadline = time.monotonic() + within
    while sorted(asyncio.run(_partitions(system))) != [2] * WORKERS:
        if time.monotonic() > deadline:
            raise Unavailable(f"{WORKERS} workers did not share the partitions within {within:.0f} s")
        time.sleep(0.5)


async def _partitions(system: System) -> list[int]:
    settings = TransportSettings(kafka=system.kafka, redis=system.redis, prefix=system.prefix)
    async with open_transport(settings) as transport:
        beats = await transport.directory.workers()
    return [len(load.partitions) for beat in beats for load in beat.models]


# --- the page ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class RoutingResults:
    """All points, and what they were measured on, by load."""

    points: list[RoutingPoint] = dataclasses.field(default_factory=list)
    about: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> RoutingResults:
        """From its JSON; empty if there is no such file."""
        if not path.exists():
            return cls()
        document: dict[str, Any] = json.loads(path.read_text())
        return cls([RoutingPoint(**point) for point in document["points"]], document["about"])

    def with_points(self, points: Sequence[RoutingPoint], about: dict[str, str]) -> RoutingResults:
        """These points replace those of the same loads."""
        loads = {point.load for point in points}
        kept = [point for point in self.points if point.load not in loads]
        merged = sorted([*kept, *points], key=lambda point: (point.load, point.round, point.kind))
        return RoutingResults(merged, {**self.about, **{f"{load:.0%}": about for load in loads}})

    def save(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def markdown(results: RoutingResults) -> str:
    """The page."""
    rows = [row for load in sorted({point.load for point in results.points}) for row in _rows(results.points, load)]
    columns = ("load", "routing", "mean batch", "p50, ms", "p99, ms", "CPU, µs", "rate/s", "errors")
    machines = {json.dumps(about, sort_keys=True): about for about in results.about.values()}
    facts = [table(("about these figures", ""), about.items()) for about in machines.values()]
    return "\n".join([_INTRODUCTION, table(columns, rows), _READING, *facts])


_COMPARED: Final = ("mean_batch", "p50_ms", "p99_ms", "cpu_us")


def _rows(points: Sequence[RoutingPoint], load: float) -> Iterator[tuple[object, ...]]:
    """A row for each kind, and one of the ratios within the rounds."""
    by_kind = {kind: [point for point in points if (point.load, point.kind) == (load, kind)] for kind in KINDS}
    for kind, of in by_kind.items():
        shown = [_median([getattr(point, name) for point in of]) for name in _COMPARED]
        yield f"{load:.0%}", kind, *shown, _median([point.rate for point in of]), sum(point.errors for point in of)
    pairs = list(zip(by_kind["queue"], by_kind["spread"], strict=False))
    ratios = [_ratio([(getattr(queue, name), getattr(spread, name)) for queue, spread in pairs]) for name in _COMPARED]
    yield f"{load:.0%}", "queue / spread", *ratios, None, None


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _ratio(pairs: Sequence[tuple[float, float]]) -> str:
    """The median of the ratios within a round, with the smallest and the largest."""
    ratios = sorted(queue / spread for queue, spread in pairs)
    return f"x {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})" if ratios else "-"


def _line(point: RoutingPoint) -> str:
    return (
        f"{point.load:.0%} {point.kind:6} round {point.round}: mean batch {point.mean_batch:.2f}, p50 {point.p50_ms:.1f} ms, "
        f"p99 {point.p99_ms:.1f} ms, {point.cpu_us:.0f} us CPU, {point.rate:.0f}/s, {point.errors} errors"
    )


def run(loads: Sequence[float], rounds: int, seconds: float, out: Path, say: Callable[[str], None]) -> None:
    """Measure, and write the page and its JSON beside it; loads measured earlier stay.

    Raises:
        FleetError: a server does not start, or a request was not answered.
    """
    from loadtest.machine import about

    path = out.with_suffix(".json")
    points = measure(loads, rounds, seconds, say)
    results = RoutingResults.load(path).with_points(points, about(*cores()))
    results.save(path)
    out.write_text(markdown(results))
    say(f"wrote {out}")
    if failed := sum(point.errors for point in points):
        raise FleetError(f"{failed} requests were not answered")


_INTRODUCTION: Final = f"""# Routing by queue against spreading

Written by `python -m loadtest routing`; every point is in [routing.json](routing.json). One fleet on Kafka and Redis with
{WORKERS} workers of two partitions each, and two gateways that differ only in `--routing`; one is loaded at a time, and they take
turns. Requests of one row arrive as Poisson in open loop. The model takes {BATCH_SECONDS * 1e3:.0f} ms for a batch of up to
{MAX_BATCH} rows, in which it waits: so a load of 100 % is {CAPACITY:.0f} rows/s. Figures are medians of the rounds; ratios are of
points of the same round, with the smallest and the largest. CPU is that of the fleet per request.
"""

_READING: Final = """All servers, the broker included, share one core, and the generator has the other: the model waits instead
of computing, or two workers could not run side by side. So the latencies contain the queue for that core, which larger batches make
shorter, and the highest load is closer to the core's limit than to the model's. A point at 30 % has about 500 requests: its p99 is
the fifth longest, and differs by 10 % between two runs of the same kind. The simulation in `loadtest/routing_simulation.py`
has no such limit; `tests/loadtest/test_routing_simulation.py` asserts its figures.
"""
