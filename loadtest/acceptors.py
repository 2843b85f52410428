"""Two acceptor processes on two cores against one on one core: what a request costs in each, in alternated rounds.

With `fleet` the acceptors are `penstock gateway` on Kafka and Redis, with `embedded` those of `penstock serve`, whose models have a
process of their own; one process there is the whole server. The generator and all other servers run on the same cores.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from loadtest import payloads, wrk
from loadtest.payloads import InputSpec, Pool
from loadtest.processes import Meter, ServerProcess, cores
from loadtest.systems import System, embedded, fleet, free_port, wait_for_answer
from loadtest.tables import table
from protocol.errors import FleetError

Kind = Literal["fleet", "embedded"]
MODEL: Final = "echo"
COUNTS: Final = (1, 2)
_INPUTS: Final = (InputSpec("X", "FP32", (1, 16)),)
_CONFIG: Final = """backend: "identity"
max_batch_size: 32
input [ { name: "X" data_type: TYPE_FP32 dims: [ 16 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 16 ] } ]
dynamic_batching { }
"""
_MEASURED: Final = {"fleet": "gateway", "embedded": "server"}


@dataclasses.dataclass(frozen=True, slots=True)
class AcceptorPoint:
    """One point.

    Attributes:
        kind: what is measured.
        processes: acceptors, each with a core.
        round: points of the same kind and round are compared.
        rate: right statuses per second.
        p50_ms, p99_ms: of all answers.
        cpu_us: CPU microseconds per request of the gateway, or of the whole server with "embedded".
        others_us: CPU microseconds per request of all other servers.
        generator_us: CPU microseconds per request of wrk.
        errors: requests without a right status.
    """

    kind: Kind
    processes: int
    round: int
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    others_us: float
    generator_us: float
    errors: int

    @property
    def per_core(self) -> float:
        """Requests that a core busy with the gateway alone would take per second."""
        return 1e6 / self.cpu_us


def measure(kind: Kind, rounds: int, seconds: float, callers: int, say: Callable[[str], None]) -> list[AcceptorPoint]:
    """All points.

    Raises:
        FleetError: a server does not start, or wrk is missing.
    """
    points = []
    with tempfile.TemporaryDirectory(prefix="penstock-acceptors-") as place:
        repository = _write_model(Path(place))
        pool = payloads.build(_INPUTS, 64, reference=lambda arrays: {"Y": arrays["X"]})
        with _servers(kind, repository, pool) as servers:
            for system in servers.values():
                wrk.run(system.address(MODEL), pool, callers=callers, seconds=1)
            for number in range(rounds):
                for count in COUNTS if number % 2 else reversed(COUNTS):
                    points.append(_point(kind, count, number, servers[count], pool, callers, seconds))
                    say(_line(points[-1]))
    return points


def _point(  # noqa: PLR0913  # what is measured, and how
    kind: Kind, count: int, number: int, system: System, pool: Pool, callers: int, seconds: float
) -> AcceptorPoint:
    with system.meter.window() as spent:
        point = wrk.run(system.address(MODEL), pool, callers=callers, seconds=seconds)
    per_request = {name: used * 1e6 / (point.rate * point.seconds) for name, used in spent.items()}
    measured = per_request.pop(_MEASURED[kind])
    return AcceptorPoint(
        kind, count, number, point.rate, point.latency_ms["p50"], point.latency_ms["p99"], measured,
        sum(per_request.values()), point.generator_us, point.errors,
    )  # fmt: skip


@contextlib.contextmanager
def _servers(kind: Kind, repository: Path, pool: Pool) -> Iterator[dict[int, System]]:
    """A server of one process on one core, and one of two on all cores."""
    core, _ = cores()
    with contextlib.ExitStack() as stack:
        if kind == "embedded":
            yield {
                1: stack.enter_context(embedded(repository, core, MODEL, pool)),
                2: stack.enter_context(embedded(repository, None, MODEL, pool, gateway_options=["--processes", "2"])),
            }
            return
        two = stack.enter_context(fleet(repository, None, MODEL, pool, gateway_options=["--processes", "2"]))
        port = free_port()
        transport = ["--kafka", two.kafka, "--redis", two.redis, "--prefix", two.prefix]
        line = ["-m", "penstock", "gateway", *transport, "--http-port", str(port), "--metrics-port", "0"]
        gateway = ServerProcess(line, core)
        stack.callback(gateway.stop)
        roots = {name: two.meter.pid(name) for name in ("worker", "kafka", "redis")}
        one = dataclasses.replace(two, port=port, meter=Meter({"gateway": gateway.pid, **roots}))
        wait_for_answer(one.address(MODEL), pool, {"gateway": gateway})
        yield {1: one, 2: two}


def _write_model(repository: Path) -> Path:
    (repository / MODEL / "1").mkdir(parents=True)
    (repository / MODEL / "config.pbtxt").write_text(_CONFIG)
    return repository


def _line(point: AcceptorPoint) -> str:
    return (
        f"{point.kind} {point.processes} round {point.round}: {point.rate:.0f}/s, p50 {point.p50_ms:.2f} ms, "
        f"p99 {point.p99_ms:.1f} ms, {point.cpu_us:.0f} us CPU of the gateway, {point.others_us:.0f} of other servers, "
        f"{point.generator_us:.0f} of wrk, {point.errors} errors"
    )


# --- the page ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class AcceptorResults:
    """All points, and what they were measured on, by kind."""

    points: list[AcceptorPoint] = dataclasses.field(default_factory=list)
    about: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> AcceptorResults:
        """From its JSON; empty if there is no such file."""
        if not path.exists():
            return cls()
        document: dict[str, Any] = json.loads(path.read_text())
        return cls([AcceptorPoint(**point) for point in document["points"]], document["about"])

    def with_points(self, points: Sequence[AcceptorPoint], about: dict[str, str]) -> AcceptorResults:
        """These points replace those of the same kind."""
        kinds = {point.kind for point in points}
        kept = [point for point in self.points if point.kind not in kinds]
        return AcceptorResults([*kept, *points], {**self.about, **dict.fromkeys(kinds, about)})

    def save(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def markdown(results: AcceptorResults) -> str:
    """The page."""
    columns = (
        "server",
        "acceptors",
        "rate/s",
        "p50, ms",
        "p99, ms",
        "CPU, µs",
        "requests/s per core",
        "others, µs",
        "wrk, µs",
    )
    rows = [row for kind in sorted({point.kind for point in results.points}) for row in _rows(results.points, kind)]
    facts = [table((f"about the figures of {kind}", ""), about.items()) for kind, about in results.about.items()]
    return "\n".join([_INTRODUCTION, table(columns, rows), *facts])


_COMPARED: Final = ("rate", "p50_ms", "p99_ms", "cpu_us", "per_core")


def _rows(points: Sequence[AcceptorPoint], kind: str) -> Iterator[tuple[object, ...]]:
    by_count = {count: [p for p in points if (p.kind, p.processes) == (kind, count)] for count in COUNTS}
    for count, of in by_count.items():
        shown = [
            statistics.median(getattr(point, name) for point in of)
            for name in (*_COMPARED, "others_us", "generator_us")
        ]
        yield kind, count, *shown
    pairs = list(zip(by_count[2], by_count[1], strict=True))
    ratios = [[getattr(two, name) / getattr(one, name) for two, one in pairs] for name in _COMPARED]
    yield (
        kind,
        "2 / 1",
        *[f"x {statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in ratios],
        "",
        "",
    )


def run(kind: Kind, rounds: int, seconds: float, callers: int, out: Path, say: Callable[[str], None]) -> None:
    """Measure, and write the page and its JSON beside it; figures of the other kind stay.

    Raises:
        FleetError: a server does not start, wrk is missing, or a request was not answered.
    """
    from loadtest.machine import about

    path = out.with_suffix(".json")
    points = measure(kind, rounds, seconds, callers, say)
    results = AcceptorResults.load(path).with_points(points, {**about(*cores()), "callers": str(callers)})
    results.save(path)
    out.write_text(markdown(results))
    say(f"wrote {out}")
    if failed := sum(point.errors for point in points):
        raise FleetError(f"{failed} requests were not answered")


_INTRODUCTION: Final = """# Two acceptor processes against one

Written by `python -m loadtest processes`; every point is in [processes.json](processes.json). JSON requests of 16 numbers to an
identity model, in closed loop by wrk. One process is pinned to one core; two processes may use all. **Everything else shares these
cores**: the generator, and with `fleet` also broker, Redis and worker. So the rates of two processes say what is left of the
machine, and the CPU time per request says what the doors cost. "CPU" is that of the gateway's processes, the parent included; with
`embedded` it is that of the whole server, in which acceptors reach the models over a socket. "Requests/s per core" is its inverse.
Medians of the rounds, and ratios of points of the same round with the smallest and the largest.
"""
