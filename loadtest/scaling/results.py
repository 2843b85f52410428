"""What a trial and a simulation found, as plain values that survive a round trip through JSON. All times are in seconds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Final

POLICIES: Final = ("ours", "lag", "cpu", "future")
TITLES: Final = {"ours": "our signal", "lag": "Kafka's lag", "cpu": "CPU", "future": "knows the future"}


@dataclasses.dataclass(frozen=True, slots=True)
class ShapeResult:
    """One policy under one shape of load.

    Attributes:
        requests: that were due; latencies count from then.
        outcomes: number of requests by `samples.Outcome`.
        late: requests over the deadline, or not answered right.
        worker_seconds: of all worker processes, from their start to their end.
        starts: of workers.
    """

    requests: int
    outcomes: dict[str, int]
    p50: float
    p99: float
    worst: float
    late: int
    worker_seconds: float
    starts: int


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyRun:
    """One policy's trial.

    Attributes:
        policy: of `POLICIES`.
        shapes: by name, "ramp" and "step".
        samples: seconds since the load began; unanswered requests; workers; ready workers; seconds to drain (None if unknown).
        tails: seconds since the load began, and the p99 of the requests that were due around then.
        statuses: exit statuses of workers with their counts; "starting" are those that were stopped before they were ready.
        complaints: what callers were told instead of an answer, with counts.
        seconds: until the last answer, from the load's begin.
    """

    policy: str
    shapes: dict[str, ShapeResult]
    samples: list[tuple[float, int, int, int, float | None]]
    tails: list[tuple[float, float]]
    statuses: dict[str, int]
    complaints: dict[str, int]
    seconds: float

    @property
    def worker_seconds(self) -> float:
        """Of all shapes."""
        return sum(shape.worker_seconds for shape in self.shapes.values())

    @property
    def unanswered(self) -> int:
        """Requests that were refused, failed, or were answered wrongly or not at all."""
        return sum(shape.requests - shape.outcomes.get("ok", 0) for shape in self.shapes.values())


@dataclasses.dataclass(frozen=True, slots=True)
class Wake:
    """One way from zero workers to an answer.

    Attributes:
        push: from sending the request to the scaler's push.
        answer: from sending the request to its answer.
        start: from the start of the worker's process until it was ready, with the model's load.
    """

    push: float
    answer: float
    start: float


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """A whole run.

    Attributes:
        facts: of the plan and the calibration, by name.
        about: the machine.
    """

    runs: list[PolicyRun]
    wakes: list[Wake]
    facts: dict[str, float]
    about: dict[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class SimulatedPolicy:
    """One policy's simulated day, of all models.

    Attributes:
        rows: that arrived; each was served.
        late: rows over the deadline.
        p99, worst: of a row's wait with its run.
        worker_seconds: from start to end.
    """

    policy: str
    rows: int
    late: int
    p50: float
    p99: float
    worst: float
    worker_seconds: float
    starts: int

    @property
    def goodput(self) -> float:
        """Rows within the deadline per worker-second."""
        return (self.rows - self.late) / self.worker_seconds if self.worker_seconds else 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Simulated:
    """A simulated day.

    Attributes:
        groups: by kind of model, each policy's day.
        facts: of the trace, by name.
    """

    groups: dict[str, list[SimulatedPolicy]]
    facts: dict[str, float]
    about: dict[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class ScalingResults:
    """Both, whichever were run."""

    trial: Trial | None = None
    simulated: Simulated | None = None

    @classmethod
    def load(cls, path: Path) -> ScalingResults:
        """From its JSON; empty if there is no such file."""
        if not path.exists():
            return cls()
        document: dict[str, Any] = json.loads(path.read_text())
        trial, simulated = document["trial"], document["simulated"]
        return cls(None if trial is None else _trial(trial), None if simulated is None else _simulated(simulated))

    def save(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), separators=(",", ":")) + "\n")


def _trial(document: dict[str, Any]) -> Trial:
    runs = [PolicyRun(**{**run, "shapes": _shapes(run), **_pairs(run)}) for run in document["runs"]]
    return Trial(runs, [Wake(**wake) for wake in document["wakes"]], document["facts"], document["about"])


def _shapes(run: dict[str, Any]) -> dict[str, ShapeResult]:
    return {name: ShapeResult(**shape) for name, shape in run["shapes"].items()}


def _pairs(run: dict[str, Any]) -> dict[str, Any]:
    return {name: [tuple(row) for row in run[name]] for name in ("samples", "tails")}


def _simulated(document: dict[str, Any]) -> Simulated:
    groups = {name: [SimulatedPolicy(**one) for one in of] for name, of in document["groups"].items()}
    return Simulated(groups, document["facts"], document["about"])
