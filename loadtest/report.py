"""A survey's results as Markdown: rates as shares of the limit, followed by the raw figures. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from loadtest.results import (
    ClosedPoint,
    Disturbance,
    Idle,
    ModelResult,
    OpenPoint,
    Results,
    SafetyCost,
    ServerResult,
    Soak,
)
from loadtest.tables import cell, table

_METHOD = """\
Written by `python -m loadtest survey`. The method is in loadtest/README.md, the raw figures are in the JSON file beside the plots.
Ratios to the limit are more comparable between machines than rates.
"""
_TITLE = {
    "embedded": "embedded: one process",
    "fleet": "fleet: gateway, Kafka, worker and Redis",
    "queue": "queue: the fleet without its gateway, straight to Kafka and from Redis",
}


def ratio(rate: float, limit: Mapping[int, float] | None) -> float | None:
    """The rate as a share of the limit's best, None if no limit was measured."""
    return rate / max(limit.values()) if limit else None


def markdown(results: Results, pictures: Sequence[str] = ()) -> str:
    """The whole report; `pictures` are file names relative to it."""
    parts = [
        f"# {'Benchmarks on a GPU' if 'gpu' in results.about else 'Survey of our servers'}\n",
        _METHOD,
        table(("about this run", ""), sorted(results.about.items())),
        "## Results\n",
        _headline(results),
    ]
    parts += [f"![{name}]({name})\n" for name in pictures]
    if results.limits:
        parts += ["## The limit: the model called directly in a loop\n", _limits(results.limits)]
    for name, server in results.servers.items():
        parts += _server(name, server)
    if results.idle:
        parts += ["## Idle models\n", *map(_idle, results.idle)]
    if results.disturbances:
        parts += ["## Beside a load, a join or a leave\n", disturbances_table(results.disturbances)]
    if results.safety:
        parts += ["## What safety costs\n", safety_table(results.safety)]
    if results.soaks:
        parts += ["## Steady memory\n", *map(_soak, results.soaks)]
    return "\n".join(parts)


def _headline(results: Results) -> str:
    names = [name for name, server in results.servers.items() if server.first_answer_s is not None]
    columns = ["model", "limit, rows/s"]
    for name in names:
        columns += [f"{name}: best rate/s", "of the limit", "p50 with one caller, ms", "p99 with one caller, ms"]
    rows = []
    for model in _models(results):
        limit = results.limits.get(model)
        row: list[Any] = [model, max(limit.values()) if limit else None]
        for name in names:
            server = results.servers[name]
            row += _headline_cells(server.models.get(model), server.limits.get(model))
        rows.append(row)
    return table(columns, rows)


def _headline_cells(result: ModelResult | None, limit: Mapping[int, float] | None) -> list[Any]:
    if result is None or not result.closed:
        return [None] * 4
    best = result.best
    alone = next((point for point in result.closed if point.callers == 1), None)
    latency = alone.latency_ms if alone else {}
    rate = f"{cell(best.rate)} ({best.callers} callers)"
    return [rate, ratio(best.rate, limit), latency.get("p50"), latency.get("p99")]


def _models(results: Results) -> list[str]:
    served = (model for server in results.servers.values() for model in server.models)
    return list(dict.fromkeys([*served, *results.limits]))


def _limits(limits: Mapping[str, Mapping[int, float]]) -> str:
    sizes = sorted({size for rates in limits.values() for size in rates})
    columns = ["model, rows/s by batch size", *map(str, sizes), "best"]
    rows = [[model, *(rates.get(size) for size in sizes), max(rates.values())] for model, rates in limits.items()]
    return table(columns, rows)


def _server(name: str, server: ServerResult) -> list[str]:
    processes = sorted({process for reading in server.memory_mib.values() for process in reading})
    memory = [
        [moment, *(reading.get(process) for process in processes)] for moment, reading in server.memory_mib.items()
    ]
    parts = [f"## {_TITLE.get(name, name)}\n"]
    if server.first_answer_s is not None:
        parts.append(f"First right answer {cell(server.first_answer_s)} s after the start of its processes.\n")
    if memory:
        parts.append(table(("resident memory, MiB", *processes), memory))
    for model, result in server.models.items():
        if result.closed:
            parts += [f"### {name}: {model}, closed loop\n", closed_table(result.closed, server.limits.get(model))]
        if result.open:
            parts += [f"### {name}: {model}, open loop\n", open_table(result.open)]
    return parts


def closed_table(points: Sequence[ClosedPoint], limit: Mapping[int, float] | None = None) -> str:
    """One row per number of callers; CPU is in microseconds per request."""
    processes = list(dict.fromkeys(process for point in points for process in point.cpu_us))
    columns = ["callers", "rate/s", "of the limit", "p50, ms", "p99, ms", "mean batch", "errors"]
    rows = [
        [
            point.callers,
            point.rate,
            ratio(point.rate, limit),
            point.latency_ms.get("p50"),
            point.latency_ms.get("p99"),
            point.batch or None,
            point.errors,
            *(point.cpu_us.get(process) for process in processes),
        ]
        for point in points
    ]
    return table([*columns, *(f"{process} CPU, µs" for process in processes)], rows)


def open_table(points: Sequence[OpenPoint]) -> str:
    """One row per offered rate; latency counts from the intended send time, CPU is in microseconds per request."""
    processes = list(dict.fromkeys(process for point in points for process in point.cpu_us))
    columns = ["arrivals", "offered/s", "right/s", "goodput/s", "p50, ms", "p99, ms", "p99.9, ms", "mean batch"]
    columns += ["not right", "sent late, p99 ms", "generator CPU, µs", *(f"{process} CPU, µs" for process in processes)]
    rows = [
        [
            point.arrivals,
            point.offered,
            point.rate,
            f"{cell(point.goodput)} (≤ {point.slo_ms:g} ms)",
            *(point.latency_ms.get(name) for name in ("p50", "p99", "p99.9")),
            point.batch or None,
            sum(count for outcome, count in point.outcomes.items() if outcome != "ok"),
            point.lateness_ms.get("p99"),
            point.generator_us,
            *(point.cpu_us.get(process) for process in processes),
        ]
        for point in points
    ]
    complaints = [
        f"- at {cell(point.offered)}/s, {count} times: {complaint.replace('|', '/')}"
        for point in points
        for complaint, count in point.complaints.items()
    ]
    return "\n".join([table(columns, rows), *(line + "\n" for line in complaints)])


def _idle(idle: Idle) -> str:
    rows = [(name, share * 100, idle.memory_mib.get(name)) for name, share in idle.cpu_share.items()]
    return table((f"{idle.models} idle models", "% of a core", "resident MiB"), rows)


def disturbances_table(found: Sequence[Disturbance]) -> str:
    """A table for each length of time, one row per kind, over all times that it was caused."""
    what = (
        f"Callers of add/sub at {cell(found[0].rate)}/s on the fleet; each round has fleets of its own. Either nothing is pinned,"
        " or the fleet has one core and the joining worker the other. Calls arrive at the same offsets before and after the event;"
        " the broker has enough memory to collect no garbage meanwhile. p99 and its ratio are over the calls of all rounds,"
        " with the smallest and the largest ratio of a single round.\n"
    )
    lengths = dict.fromkeys(each.seconds for each in found)
    return "\n".join(
        [what, *(_disturbances_of(length, [each for each in found if each.seconds == length]) for length in lengths)]
    )


def _disturbances_of(seconds: float, found: Sequence[Disturbance]) -> str:
    columns = ["while", "times", "p50 before, ms", "p99 before", "p50 then", "p99 then"]
    columns += ["p99 ratio", "from", "to", "longest", "not right"]
    rows = []
    for name in dict.fromkeys(each.name for each in found):
        same = [each for each in found if each.name == name]
        ratios = [each.p99_ms / each.quiet_p99_ms for each in same]
        before = _p99([each.quiet_slowest_ms for each in same], [each.quiet_p99_ms for each in same])
        then = _p99([each.slowest_ms for each in same], [each.p99_ms for each in same])
        rows.append(
            (
                name,
                len(same),
                median(each.quiet_p50_ms for each in same),
                before,
                median(each.p50_ms for each in same),
                then,
                then / before,
                min(ratios),
                max(ratios),
                max(each.max_ms for each in same),
                sum(each.failed for each in same),
            )
        )
    return f"### The {seconds:g} s before and the {seconds:g} s after the event\n\n" + table(columns, rows)


def _p99(slowest: Sequence[Sequence[float]], single: Sequence[float]) -> float:
    """Of the calls of several rounds together; the median of the rounds' own if their slowest calls were not kept."""
    if not all(slowest):
        return median(single)
    together = sorted(value for values in slowest for value in values)
    return together[-max(1, round(len(together) * 0.01 / Disturbance.SLOWEST))]


def safety_table(costs: Sequence[SafetyCost]) -> str:
    """CPU time by part and process, and per request if there is a batch."""
    columns = ("CPU time, µs", "requests in the batch", "process", "each time", "per request")
    rows = [
        (cost.what, cost.size or None, process, spent, spent / cost.size if cost.size else None)
        for cost in costs
        for process, spent in cost.cpu_us.items()
    ]
    return table(columns, rows)


def _soak(soak: Soak) -> str:
    title = f"{soak.server}: {soak.model} at {cell(soak.point.offered)}/s for {cell(soak.point.seconds)} s"
    title += f" ({soak.source})" if soak.source else ""
    if not soak.series:
        return f"{title}: too short to be sampled\n"
    first, half, last = soak.series[0], soak.series[len(soak.series) // 2], soak.series[-1]
    rows = [(name, first[name], half[name], last[name], last[name] - half[name]) for name in first if name != "seconds"]
    columns = (title, "at first, MiB", "at half time", "at the end", "grown in the second half")
    return table(columns, rows) + "\n" + open_table([soak.point])
