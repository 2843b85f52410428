"""The project's performance goals, as figures that a comparison either reaches or does not. No I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Final

from loadtest.comparison import Comparison, Range, Read, ScenarioResult, Server, p50, rate

Measure = Callable[[ScenarioResult, str], Range | None]
"""From a scenario's points and a version of Python."""


@dataclasses.dataclass(frozen=True, slots=True)
class Goal:
    """One figure.

    Attributes:
        text: the measured quantity, with its unit.
        scenario: whose points it is read from.
        measure: None if it was not measured.
        bound: what the median has to reach, on every Python.
        at_least: whether `bound` is the smallest or the largest allowed value.
        aim: what would be better still.
    """

    text: str
    scenario: str
    measure: Measure
    bound: float
    at_least: bool = True
    aim: float | None = None

    def measured(self, comparison: Comparison) -> Mapping[str, Range]:
        """By version of Python; without those on which it was not measured."""
        result = comparison.scenarios.get(self.scenario)
        found = {python: self.measure(result, python) for python in result.pythons} if result else {}
        return {python: figure for python, figure in found.items() if figure}

    def met(self, comparison: Comparison) -> bool | None:
        """Whether it is reached; None if it was not measured."""
        medians = [figure.median for figure in self.measured(comparison).values()]
        if not medians:
            return None
        return all(value >= self.bound if self.at_least else value <= self.bound for value in medians)


def _against_triton(role: str, read: Read, callers: int | None = None) -> Measure:
    return lambda result, python: result.against_triton(Server(role, python), read, callers)


def _of_bare_loop(role: str) -> Measure:
    return lambda result, python: result.of_bare_loop(Server(role, python))


def _figure(role: str, read: Read, callers: int) -> Measure:
    return lambda result, python: result.figure(Server(role, python), read, callers)


GOALS: Final = (
    Goal("add/sub, ONNX backend: best rate, x Triton's Python one", "addsub", _against_triton("onnx", rate), 1.6, aim=2),
    Goal("add/sub, Python backend: best rate, x Triton's", "addsub", _against_triton("python", rate), 1.1),
    Goal(
        "add/sub, ONNX backend: p50 with one caller, x Triton's Python one", "addsub",
        _against_triton("onnx", p50, 1), 1.5, at_least=False, aim=1,
    ),
    Goal(
        "add/sub through Kafka and Redis, ONNX backend: rate with 256 callers, x Triton's Python one", "kafka",
        _against_triton("kafka-onnx", rate, 256), 0.9, aim=1,
    ),
    Goal(
        "add/sub through Kafka and Redis, ONNX backend: p50 with one caller, ms", "kafka",
        _figure("kafka-onnx", p50, 1), 1.2, at_least=False,
    ),
    Goal("MLP, ONNX backend: best rate, share of the bare loop", "mlp", _of_bare_loop("onnx"), 0.55),
    Goal("MLP, ONNX backend: best rate, x Triton's Python one", "mlp", _against_triton("onnx", rate), 1),
    Goal("encoder, ONNX backend: best rate, share of the bare loop", "encoder", _of_bare_loop("onnx"), 0.96),
    *(
        Goal(f"602 KB binary tensors, {text}, {callers} at once", "image", _against_triton(role, rate, callers), 1)
        for role, text in (("python", "Python backend: rate, x Triton's"), ("onnx", "ONNX backend: rate, x Triton's Python one"))
        for callers in (1, 8)
    ),
)  # fmt: skip
"""Every promised figure; servers all on one core."""
