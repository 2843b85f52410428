"""A benchmark's results, as plain frozen values that survive a round trip through JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar


@dataclasses.dataclass(frozen=True, slots=True)
class ClosedPoint:
    """One closed-loop measurement.

    Attributes:
        callers: connections, each waiting for its answer before it sends again.
        seconds: how long.
        rate: answers with status 200 per second.
        latency_ms: by percentile ("p50", "p99", …), "mean" and "max", from sending to the whole answer.
        errors: connections, reads, writes or time-outs that failed, and other statuses.
        cpu_us: CPU microseconds per request, by process.
        batch: mean rows per execution; 0 where the server does not say.
        generator_us: the generator's own CPU microseconds per request, with its start; 0 if unknown.
    """

    callers: int
    seconds: float
    rate: float
    latency_ms: dict[str, float]
    errors: int = 0
    cpu_us: dict[str, float] = dataclasses.field(default_factory=dict)
    batch: float = 0.0
    generator_us: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class OpenPoint:
    """One open-loop measurement by our own generator; every answer was checked.

    Attributes:
        arrivals: the arrival process.
        offered: requests due per second.
        seconds: length of the measured window, without warm-up.
        rate: right answers per second.
        goodput: right answers within `slo_ms` per second.
        outcomes: number of requests by `samples.Outcome`.
        latency_ms: of right answers, from the intended send time.
        lateness_ms: from the intended to the real send time: the generator's own error.
        curve_ms: (percentile, milliseconds) pairs.
        generator_us: the generator's own CPU microseconds per request.
        cpu_us: the servers' CPU microseconds per request, by process.
        batch: mean rows per execution; 0 where the server does not say.
        complaints: errors with their counts.
    """

    arrivals: str
    offered: float
    seconds: float
    rate: float
    goodput: float
    slo_ms: float
    outcomes: dict[str, int]
    latency_ms: dict[str, float]
    lateness_ms: dict[str, float]
    curve_ms: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    generator_us: float = 0.0
    cpu_us: dict[str, float] = dataclasses.field(default_factory=dict)
    batch: float = 0.0
    complaints: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class ModelResult:
    """Everything measured on one model of one server."""

    closed: list[ClosedPoint]
    open: list[OpenPoint]

    @property
    def best(self) -> ClosedPoint:
        """The closed-loop point with the highest rate.

        Raises:
            ValueError: none was measured.
        """
        return max(self.closed, key=lambda point: point.rate)


@dataclasses.dataclass(frozen=True, slots=True)
class ServerResult:
    """One server (or fleet of processes) under test.

    Attributes:
        first_answer_s: from the start of its processes to its first right answer; None if it was already running.
        memory_mib: resident memory by process, after the first answer and after all load.
        models: by model name.
        limits: the better of the model's rows per second called directly right before and right after this server was measured, by
            model and batch size.
    """

    first_answer_s: float | None
    memory_mib: dict[str, dict[str, float]]
    models: dict[str, ModelResult]
    limits: dict[str, dict[int, float]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Soak:
    """A long run at a steady rate; `series` holds one row per interval: seconds, then MiB and counts by name.

    Attributes:
        source: commit and date of the run that it was part of; "" for that of the other results.
    """

    server: str
    model: str
    point: OpenPoint
    series: list[dict[str, float]]
    source: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Idle:
    """Many loaded models without calls: share of one core (0..1) and MiB, by process."""

    models: int
    cpu_share: dict[str, float]
    memory_mib: dict[str, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Disturbance:
    """The calls of one model during a disturbance, compared with the quiet seconds before.

    Attributes:
        failed: requests in the disturbed seconds that were not answered rightly.
        seconds: of calls before it, and as many during it.
        quiet_slowest_ms: the slowest `SLOWEST` of the calls before it, so that rounds can be merged; older results have none.
        slowest_ms: of the calls while it happened.
    """

    SLOWEST: ClassVar = 0.02

    name: str
    rate: float
    quiet_p50_ms: float
    quiet_p99_ms: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    failed: int
    seconds: float = 8.0
    quiet_slowest_ms: list[float] = dataclasses.field(default_factory=list)
    slowest_ms: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class SafetyCost:
    """What one part of the fleet's safety costs.

    Attributes:
        what: the part.
        size: requests in the measured batch; 0 if it does not depend on a batch.
        cpu_us: CPU microseconds each time, by process.
    """

    what: str
    size: int
    cpu_us: dict[str, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Results:
    """One run of the whole benchmark.

    Attributes:
        about: machine, versions, commit, date, settings.
        limits: rows per second of the model called directly, by model and batch size, at any time of the run.
        servers: by name ("embedded", "fleet", "queue").
    """

    about: dict[str, str]
    limits: dict[str, dict[int, float]] = dataclasses.field(default_factory=dict)
    servers: dict[str, ServerResult] = dataclasses.field(default_factory=dict)
    soaks: list[Soak] = dataclasses.field(default_factory=list)
    idle: list[Idle] = dataclasses.field(default_factory=list)
    disturbances: list[Disturbance] = dataclasses.field(default_factory=list)
    safety: list[SafetyCost] = dataclasses.field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """The inverse of `save`."""
        data = json.loads(path.read_text())
        return cls(
            about=data["about"],
            limits=_limits(data["limits"]),
            servers={name: _server(server, data["limits"]) for name, server in data["servers"].items()},
            soaks=[Soak(**{**soak, "point": _open(soak["point"])}) for soak in data["soaks"]],
            idle=[Idle(**idle) for idle in data["idle"]],
            disturbances=[Disturbance(**found) for found in data.get("disturbances", ())],
            safety=[SafetyCost(**cost) for cost in data.get("safety", ())],
        )


def _server(data: dict[str, Any], limits: dict[str, dict[str, float]]) -> ServerResult:
    """Older results have one limit for all servers."""
    models = {
        name: ModelResult(
            [ClosedPoint(**point) for point in model["closed"]], [_open(point) for point in model["open"]]
        )
        for name, model in data["models"].items()
    }
    return ServerResult(data["first_answer_s"], data["memory_mib"], models, _limits(data.get("limits", limits)))


def _limits(data: dict[str, dict[str, float]]) -> dict[str, dict[int, float]]:
    return {model: {int(size): rate for size, rate in rates.items()} for model, rates in data.items()}


def _open(data: dict[str, Any]) -> OpenPoint:
    return OpenPoint(**{**data, "curve_ms": [(percentile, value) for percentile, value in data["curve_ms"]]})
