"""What was measured, as one JSON file; a part that is measured again replaces its former figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import orjson


@dataclasses.dataclass(frozen=True, slots=True)
class DoorPoint:
    """One closed-loop measurement.

    Attributes:
        round: 0, 1, …; neighbours of a round are compared.
        part: of the page.
        server: "triton", "embedded" or "fleet".
        protocol: "http" or "grpc".
        model: the scenario's model.
        callers: connections, each waiting for its answer.
        rate: right answers per second.
        p50_ms, p99_ms: of all answers.
        cpu_us: the servers' CPU microseconds per request, by process.
        generator_us: the generator's.
        errors: calls that failed.
        megabytes: of the tensors of one request and its answer.
    """

    round: int
    part: str
    server: str
    protocol: str
    model: str
    callers: int
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float]
    generator_us: float
    errors: int
    megabytes: float = 0.0


@dataclasses.dataclass(slots=True)
class DoorResults:
    """All points, and by part the machine that they were measured on."""

    about: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    points: list[DoorPoint] = dataclasses.field(default_factory=list)

    def replace(self, part: str, points: list[DoorPoint], about: dict[str, str]) -> None:
        """Put new points in the place of a part's."""
        self.points = [point for point in self.points if point.part != part] + points
        self.about[part] = about

    def save(self, path: Path) -> None:
        """Write it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(orjson.dumps(self, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))

    @classmethod
    def load(cls, path: Path) -> DoorResults:
        """Read what `save` wrote; empty without a file."""
        if not path.exists():
            return cls()
        raw = orjson.loads(path.read_bytes())
        return cls(raw["about"], [DoorPoint(**point) for point in raw["points"]])
