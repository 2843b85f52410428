"""A comparison as Markdown: the page docs/benchmarks.md, and the table of figures in README.md. No I/O."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any, Final

from loadtest.comparison import Comparison, Range, Sample, ScenarioResult, Server, p50, rate
from loadtest.goals import GOALS, Goal
from loadtest.scenarios import BARE, ROLES, SCENARIOS, TRITON, Scenario
from loadtest.tables import cell, table

_METHOD: Final = """\
Written by `make bench` (`python -m loadtest bench`); the method is in loadtest/README.md, every point in
[results.json](benchmarks/results.json). All servers are on one core and the generator, wrk, on another. Each point is measured once
in every round, and the servers take turns within a round. A figure is the median of the rounds, with the smallest and the largest
in brackets. *x Triton* and *of the bare loop* are ratios of two points of the same round; compare these, not rates of two machines.
CPU is the user and system time of all processes of a server, per answered request.

*Spin* is a fixed Python loop on the servers' core, before and after each point, in nanoseconds per iteration: smallest and largest
of all rounds. A point is *unsteady* if it changed by more than 10 % meanwhile; such a point counts, but trust its row less.

[The survey](benchmarks/survey.md) has our servers alone: open loop, start, memory, idle models, disturbances.
[Batch producers](benchmarks/producers.md): files, rows per record, both lanes, a million lines through a fleet that breaks.
[Routing](benchmarks/routing.md) compares a gateway that reads its workers' heartbeats with one that takes turns.
[gRPC and large tensors](benchmarks/doors.md), [several gateway processes](benchmarks/processes.md),
[autoscaling by four policies, and from zero to one](benchmarks/scaling.md), [many models](benchmarks/many-models.md), and
[the demo beside wrk](benchmarks/demo.md).
[What profiling found](benchmarks/findings.md) has a page of its own.
"""
_NO_BACKENDS: Final = (
    "Triton's ONNX and PyTorch backends: the wheel nvidia-pytriton, from which this Triton comes, has only the Python backend."
    " Our ONNX backend stands beside it; Triton's model.py of MLP and encoder makes the same onnxruntime call on the same file."
)
_ELSEWHERE: Final = (
    "Networks (connections are on loopback), GPUs, several workers or brokers, a connection per request."
)
BEGIN: Final = "<!-- figures: written by `make bench` -->\n"
END: Final = "<!-- end of figures -->\n"


def markdown(comparison: Comparison) -> str:
    """The whole page."""
    parts = [
        "# Benchmarks\n",
        _METHOD,
        table(("about these figures", ""), sorted(comparison.about.items())),
        "## Goals\n",
        _goals(comparison),
    ]
    for name, scenario in SCENARIOS.items():
        if name in comparison.scenarios:
            parts += _scenario(scenario, comparison.scenarios[name])
    parts += ["## Not measured\n", "".join(f"- {line}\n" for line in _not_measured(comparison))]
    return "\n".join(parts)


def _goals(comparison: Comparison) -> str:
    columns = ("goal", "", "aim", "measured", "reached")
    return table(columns, [_goal(goal, comparison) for goal in GOALS])


def _goal(goal: Goal, comparison: Comparison) -> list[Any]:
    sign = "≥" if goal.at_least else "≤"
    measured = goal.measured(comparison)
    shown = [f"{spread(figure)}{f' on {python}' if len(measured) > 1 else ''}" for python, figure in measured.items()]
    met = goal.met(comparison)
    reached = "not measured" if met is None else "yes" if met else "NO"
    aim = f"{sign} {cell(float(goal.aim))}" if goal.aim else None
    return [goal.text, f"{sign} {cell(float(goal.bound))}", aim, "; ".join(shown) or None, reached]


def spread(figure: Range | None) -> str | None:
    """Median (smallest to largest)."""
    return None if figure is None else f"{cell(figure.median)} ({cell(figure.low)} to {cell(figure.high)})"


def _scenario(scenario: Scenario, result: ScenarioResult) -> list[str]:
    columns = ["server", "Python", "callers", "rate/s", "x Triton"]
    columns += ["MB/s"] if scenario.megabytes else []
    columns += ["of the bare loop"] if scenario.bare else []
    columns += ["p50, ms", "p99, ms", "CPU, µs", "generator CPU, µs", "spin, ns", "unsteady"]
    servers = sorted(result.servers(), key=lambda server: ["", *result.pythons].index(server.python))
    rows = [
        _row(scenario, result, server, points)
        for callers in scenario.callers
        for server in servers
        if (points := list(result.of(server, callers).values()))
    ]
    return [f"## {scenario.title}\n", table(columns, rows), _notes(scenario, result)]


def _row(scenario: Scenario, result: ScenarioResult, server: Server, points: list[Sample]) -> list[Any]:
    callers = points[0].callers

    def figure(read: Callable[[Sample], float]) -> str | None:
        return spread(result.figure(server, read, callers))

    row = [ROLES[server.role], server.python or None, callers, figure(rate)]
    measure = server.role in (TRITON, BARE)
    row += [None if measure else spread(result.against_triton(server, rate, callers))]
    row += [figure(lambda sample: sample.rate * scenario.megabytes)] if scenario.megabytes else []
    if scenario.bare:
        row += [None if server.role == BARE else spread(result.of_bare_loop(server, callers))]
    row += [None] * 4 if server.role == BARE else _costs(result, server, points)
    spins = [spin for sample in points for spin in sample.spin_ns]
    unsteady = sum(sample.unsteady for sample in points)
    return [*row, f"{min(spins):.0f} to {max(spins):.0f}", f"{unsteady} of {len(points)}"]


def _costs(result: ScenarioResult, server: Server, points: list[Sample]) -> list[str | None]:
    """Latencies and CPU time."""
    latencies = [result.figure(server, read, points[0].callers) for read in (p50, lambda sample: sample.p99_ms)]
    generator = statistics.median(sample.generator_us for sample in points)
    return [*map(spread, latencies), _cpu(points), cell(generator)]


def _cpu(points: list[Sample]) -> str:
    """The median; with several processes, that of each too."""
    total = cell(statistics.median(sum(sample.cpu_us.values()) for sample in points))
    if len(points[0].cpu_us) == 1:
        return total
    each = {name: statistics.median(sample.cpu_us[name] for sample in points) for name in points[0].cpu_us}
    return f"{total}: " + ", ".join(f"{name} {cell(value)}" for name, value in each.items())


def _notes(scenario: Scenario, result: ScenarioResult) -> str:
    others = max(sample.others for sample in result.samples)
    notes = [f"Commit {result.commit}, {result.date}, {result.rounds} round{'s' * (result.rounds > 1)}."]
    if scenario.megabytes:
        notes.append(f"MB/s counts the tensors of request and answer, {scenario.megabytes:.2f} MB together.")
    notes.append(f"The servers that idled meanwhile took at most {others * 100:.1f} % of the core together.")
    if errors := sum(sample.errors for sample in result.samples):
        notes.append(f"{errors} requests failed or were refused.")
    return "\n".join(notes) + "\n"


def _not_measured(comparison: Comparison) -> Iterator[str]:
    missing = [scenario.title for name, scenario in SCENARIOS.items() if name not in comparison.scenarios]
    if missing:
        yield f"{'; '.join(missing)}: not part of this run."
    without = [
        SCENARIOS[name].title
        for name, result in comparison.scenarios.items()
        if not any(server.role == TRITON for server in result.servers())
    ]
    if without:
        yield f"Triton in: {'; '.join(without)}. The run had no command that starts it."
    pythons = dict.fromkeys(python for result in comparison.scenarios.values() for python in result.pythons)
    for name, result in comparison.scenarios.items():
        if lacking := [python for python in pythons if python not in result.pythons]:
            yield f"Python {', '.join(lacking)} in: {SCENARIOS[name].title}."
    yield _NO_BACKENDS
    yield _ELSEWHERE


def figures(comparison: Comparison) -> str:
    """README's table: medians on the first Python, and ratios to Triton within a round."""
    python = next((python for result in comparison.scenarios.values() for python in result.pythons), "")
    columns = ("server on one core", "Triton, Python backend", "same model.py", "ONNX backend", "ONNX, Kafka and Redis")
    return table(columns, _figure_rows(comparison, python))


def _figure_rows(comparison: Comparison, python: str) -> Iterator[list[str | None]]:
    roles = (TRITON, "python", "onnx")
    if addsub := comparison.scenarios.get("addsub"):
        kafka = comparison.scenarios.get("kafka")
        beside = Server("kafka-onnx", python)
        best = [_with_ratio(addsub, Server(role, python)) for role in roles]
        yield ["add/sub, JSON: best rate/s", *best, _with_ratio(kafka, beside) if kafka else None]
        alone = [_median(addsub.figure(Server(role, python), p50, 1)) for role in roles]
        yield [
            "add/sub, JSON: p50 with one caller, ms",
            *alone,
            _median(kafka.figure(beside, p50, 1)) if kafka else None,
        ]
    for name in ("mlp", "encoder"):
        if result := comparison.scenarios.get(name):
            shares = [_median(result.of_bare_loop(Server(role, python))) for role in roles]
            yield [f"{SCENARIOS[name].title.partition(',')[0]}, JSON: share of the bare loop", *shares, None]
    if image := comparison.scenarios.get("image"):
        scale = SCENARIOS["image"].megabytes
        rates = [_with_ratio(image, Server(role, python), 8, scale) for role in roles]
        yield ["602 KB binary tensors: MB/s with 8 callers", *rates, None]


def _median(figure: Range | None) -> str | None:
    return cell(figure.median) if figure else None


def _with_ratio(result: ScenarioResult, server: Server, callers: int | None = None, scale: float = 1.0) -> str | None:
    found = result.figure(server, rate, callers)
    if found is None:
        return None
    ratio = None if server.role == TRITON else result.against_triton(server, rate, callers)
    return cell(found.median * scale) + (f" (x {cell(ratio.median)})" if ratio else "")


def with_figures(text: str, comparison: Comparison) -> str:
    """README's text with its table of figures written anew.

    Raises:
        ValueError: the text does not mark the place.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the text has no place for figures between {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}{figures(comparison)}{END}{after}"
