"""The figures of a comparison, and what they say: medians and ranges over rounds, ratios within a round.

Invariant: a ratio is always of two points of the same round, so a machine that is slower in one round than in the next moves both.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from loadtest.scenarios import BARE, TRITON

UNSTEADY: Final = 0.10
"""A point is marked if the calibration after it differs from that before it by more than this share."""

SAME: Final = ("processor", "memory", "system", "packages")
"""Facts of `machine.about` on which scenarios of one page agree."""


class Server(NamedTuple):
    """One of those compared: a name of `scenarios.ROLES`, and the version of the Python that runs it; "" if unknown."""

    role: str
    python: str


class Range(NamedTuple):
    """Over the rounds."""

    median: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One server at one number of callers in one round.

    Attributes:
        round: from 0.
        role: see `Server`.
        python: see `Server`.
        callers: each waiting for its answer before it sends again; of the bare loop, those of the points beside it.
        rate: answers with status 200 per second; of the bare loop, rows.
        p50_ms: from sending to the whole answer; 0 for the bare loop.
        p99_ms: likewise.
        cpu_us: the server's CPU microseconds per request, by process tree; empty for the bare loop.
        generator_us: the generator's.
        errors: requests that failed or got another status.
        spin_ns: the calibration before and after it, nanoseconds per iteration.
        others: CPU that the other servers, which idle meanwhile, took together, as a share of the servers' core.
    """

    round: int
    role: str
    python: str
    callers: int
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float]
    generator_us: float
    errors: int
    spin_ns: tuple[float, float]
    others: float

    @property
    def server(self) -> Server:
        """Whose point it is."""
        return Server(self.role, self.python)

    @property
    def unsteady(self) -> bool:
        """Whether the machine's speed changed during it."""
        before, after = self.spin_ns
        return abs(after / before - 1) > UNSTEADY


Read = Callable[[Sample], float]


def rate(sample: Sample) -> float:
    """Answers per second."""
    return sample.rate


def p50(sample: Sample) -> float:
    """Milliseconds."""
    return sample.p50_ms


@dataclasses.dataclass(frozen=True, slots=True)
class ScenarioResult:
    """The points of one scenario.

    Attributes:
        commit: that was measured.
        date: when.
        samples: in the order in which they were taken.
    """

    commit: str
    date: str
    samples: list[Sample] = dataclasses.field(default_factory=list)

    @property
    def rounds(self) -> int:
        """How many were begun."""
        return len({sample.round for sample in self.samples})

    @property
    def pythons(self) -> list[str]:
        """The versions that ran our servers."""
        return list(dict.fromkeys(sample.python for sample in self.samples if sample.role not in (TRITON, BARE)))

    def servers(self) -> list[Server]:
        """In the order of their first points."""
        return list(dict.fromkeys(sample.server for sample in self.samples))

    def of(self, server: Server, callers: int | None = None) -> dict[int, Sample]:
        """A server's points by round; without a number of callers, that with the best rate in the round."""
        found: dict[int, Sample] = {}
        for sample in self.samples:
            if sample.server == server and callers in (None, sample.callers):
                best = found.get(sample.round)
                found[sample.round] = sample if best is None or sample.rate > best.rate else best
        return found

    def figure(self, server: Server, read: Read, callers: int | None = None) -> Range | None:
        """A figure of its points; None if there is none."""
        return over_rounds(map(read, self.of(server, callers).values()))

    def against_triton(self, server: Server, read: Read, callers: int | None = None) -> Range | None:
        """The same as a multiple of Triton's in the same round; None without Triton."""
        return self._against(TRITON, server, read, callers)

    def of_bare_loop(self, server: Server, callers: int | None = None) -> Range | None:
        """Its rate as a share of the model's, called directly in the same round; None if that was not measured."""
        return self._against(BARE, server, rate, callers)

    def _against(self, role: str, server: Server, read: Read, callers: int | None) -> Range | None:
        """Of the other on the same Python, or else of the only one: a Triton whose Python we do not know, or the bare loop."""
        same = Server(role, server.python)
        other = same if same in self.servers() else Server(role, "")
        ours, theirs = self.of(server, callers), self.of(other, callers)
        return over_rounds(read(ours[index]) / read(theirs[index]) for index in ours.keys() & theirs.keys())


def over_rounds(values: Iterable[float]) -> Range | None:
    """Median, smallest and largest; None without values."""
    found = sorted(values)
    return Range(statistics.median(found), found[0], found[-1]) if found else None


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """All scenarios that were measured on one machine; each may come from a run of its own.

    Attributes:
        about: the machine, the packages, the interpreters.
        scenarios: by name.
    """

    about: dict[str, str]
    scenarios: dict[str, ScenarioResult] = dataclasses.field(default_factory=dict)

    def then(self, about: dict[str, str]) -> Comparison:
        """What a further run goes on with: all scenarios if it has the same machine and packages, else none."""
        same = all(self.about.get(name) == about.get(name) for name in SAME)
        return Comparison({**self.about, **about}, dict(self.scenarios)) if same else Comparison(about)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Comparison:
        """The inverse of `save`."""
        data = json.loads(path.read_text())
        return cls(data["about"], {name: _scenario(found) for name, found in data["scenarios"].items()})


def _scenario(data: Mapping[str, Any]) -> ScenarioResult:
    samples = [Sample(**{**sample, "spin_ns": tuple(sample["spin_ns"])}) for sample in data["samples"]]
    return ScenarioResult(data["commit"], data["date"], samples)
