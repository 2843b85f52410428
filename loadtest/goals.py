"""The project's performance goals, as figures that a run either reaches or does not. No I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

from loadtest.results import ClosedPoint, Results

Measure = Callable[[Results], float | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Yardstick:
    """Another server's figure, which scales goals from the machine where they were set to that of a run.

    Attributes:
        measure: the figure in this run.
        there: its value on the machine where the goals were set.
    """

    measure: Measure
    there: float


@dataclasses.dataclass(frozen=True, slots=True)
class Goal:
    """One figure.

    Attributes:
        text: the measured quantity, with its unit.
        measure: reads it from results; None if it was not measured.
        bound: the value to reach.
        at_least: whether `bound` is the smallest or the largest allowed value.
        yardstick: a figure that depends on the machine in the same way.
    """

    text: str
    measure: Measure
    bound: float
    at_least: bool = True
    yardstick: Yardstick | None = None

    def met(self, results: Results) -> bool | None:
        """Whether it is reached; None if it was not measured."""
        return self._reaches(self.measure(results), self.bound)

    def scaled(self, results: Results) -> float | None:
        """The bound scaled to this run's machine by the yardstick; None without one."""
        here = self.yardstick.measure(results) if self.yardstick else None
        return self.bound * here / self.yardstick.there if self.yardstick and here else None

    def met_here(self, results: Results) -> bool | None:
        """Whether the scaled bound is reached; None if it was not measured."""
        bound = self.scaled(results)
        return None if bound is None else self._reaches(self.measure(results), bound)

    def _reaches(self, value: float | None, bound: float) -> bool | None:
        if value is None:
            return None
        return value >= bound if self.at_least else value <= bound


def _best_rate(server: str, model: str) -> Measure:
    def measure(results: Results) -> float | None:
        found = results.servers.get(server)
        result = found.models.get(model) if found else None
        return result.best.rate if result and result.closed else None

    return measure


def _at(server: str, model: str, callers: int, read: Callable[[ClosedPoint], float]) -> Measure:
    def measure(results: Results) -> float | None:
        found = results.servers.get(server)
        result = found.models.get(model) if found else None
        points = [point for point in result.closed if point.callers == callers] if result else []
        return read(points[0]) if points else None

    return measure


def _share(server: str, model: str) -> Measure:
    best = _best_rate(server, model)

    def measure(results: Results) -> float | None:
        rate = best(results)
        limit = results.servers[server].limits.get(model) if rate is not None else None
        return rate / max(limit.values()) if rate is not None and limit else None

    return measure


def _first_answer(results: Results) -> float | None:
    return results.servers["embedded"].first_answer_s if "embedded" in results.servers else None


def _rate(point: ClosedPoint) -> float:
    return point.rate


def _p50(point: ClosedPoint) -> float:
    return point.latency_ms["p50"]


def _p99(point: ClosedPoint) -> float:
    return point.latency_ms["p99"]


def _against(rival: str) -> Measure:
    """The best rate as a share of another server's with its Python model."""
    ours, theirs = _best_rate("embedded", "addsub"), _best_rate(rival, "addsub-python")

    def measure(results: Results) -> float | None:
        rate, other = ours(results), theirs(results)
        return rate / other if rate is not None and other else None

    return measure


_RATE: Final = Yardstick(_best_rate("triton", "addsub-python"), 11_100)
_TURN: Final = Yardstick(_at("triton", "addsub-python", 1, _p50), 0.22)
"""Triton with its Python backend, add/sub: its best rate per second, and its p50 with one caller in ms."""

GOALS: Final = (
    Goal("embedded: add/sub, best rate per second", _best_rate("embedded", "addsub"), 8000, yardstick=_RATE),
    Goal("embedded: add/sub, best rate as a multiple of Triton's", _against("triton"), 1),
    Goal(
        "embedded: add/sub, p50 with one caller, ms", _at("embedded", "addsub", 1, _p50), 0.6,
        at_least=False, yardstick=_TURN,
    ),
    Goal("embedded: encoder, share of the limit", _share("embedded", "encoder"), 0.96),
    Goal("embedded: mlp, share of the limit", _share("embedded", "mlp"), 0.60),
    Goal("embedded: first answer, s", _first_answer, 1.0, at_least=False),
    Goal("fleet: add/sub at 256 callers, per second", _at("fleet", "addsub", 256, _rate), 5000, yardstick=_RATE),
    Goal("fleet: add/sub at 32 callers, per second", _at("fleet", "addsub", 32, _rate), 3000, yardstick=_RATE),
    Goal(
        "fleet: add/sub, p50 with one caller, ms", _at("fleet", "addsub", 1, _p50), 2.5, at_least=False, yardstick=_TURN
    ),
    Goal(
        "fleet: add/sub, p99 with one caller, ms", _at("fleet", "addsub", 1, _p99), 20, at_least=False, yardstick=_TURN
    ),
    Goal("fleet: add/sub, mean batch at 256 callers", _at("fleet", "addsub", 256, lambda point: point.batch), 16),
    Goal("fleet: encoder, share of the limit", _share("fleet", "encoder"), 0.92),
    Goal("fleet: mlp, share of the limit", _share("fleet", "mlp"), 0.40),
)  # fmt: skip
"""Every promised figure; servers all on one core."""
