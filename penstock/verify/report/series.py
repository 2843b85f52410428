"""The report of several runs: totals, verdicts, and callers' waits after kills. Pure."""

from __future__ import annotations

import bisect
import collections
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from penstock.verify.report.report import BROKEN, HELD, PROVES_NOTHING

Plain = dict[str, Any]
BARS: Final[Mapping[str, float]] = {"worker-kill": 3.0, "child-kill": 0.3}
"""Seconds that one caller may wait after such a kill."""
BUCKETS: Final = (0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0)
"""Bounds of a one-line histogram of waits, in seconds."""
_WORDS: Final = {HELD: "held", BROKEN: "BROKEN", PROVES_NOTHING: "proves nothing"}


def brief(report: Plain) -> Plain:
    """One run's report without its plan, except for the plan's size."""
    kept = {name: value for name, value in report.items() if name not in {"plan", "not_judged"}}
    return kept | {"requests": len(report["plan"]["calls"]), "seconds": report["plan"]["seconds"]}


def failed(seed: int, why: str) -> Plain:
    """A run that did not take place."""
    return {"seed": seed, "exit_code": None, "error": why}


def merged(runs: Sequence[Plain], about: Plain) -> Plain:
    """One report of all runs.

    Args:
        runs: from `brief` or `failed`.
        about: date, versions, settings; copied.
    """
    done = [run for run in runs if run["exit_code"] is not None]
    return {
        "about": about | {"redis": sorted({run["measures"]["store_version"] for run in done})},
        "exit_code": exit_code(runs),
        "totals": _totals(runs, done),
        "verdicts": _verdicts(done),
        "faults": _faults(done),
        "waits": {kind: _waits(kind, done) for kind in BARS},
        "runs": list(runs),
    }


def exit_code(runs: Iterable[Plain]) -> int:
    """The worst code: broken, then without proof (such as a run that did not take place), then held."""
    codes = {PROVES_NOTHING if run["exit_code"] is None else run["exit_code"] for run in runs}
    return next((code for code in (BROKEN, PROVES_NOTHING) if code in codes), HELD)


def _totals(runs: Sequence[Plain], done: Sequence[Plain]) -> Plain:
    measured = ("answered", "executions", "records", "dead_letters", "samples")
    zeros = [run["measures"]["lag_zero_after_s"] for run in done]
    return {
        "runs": len(runs),
        "held": sum(run["exit_code"] == HELD for run in done),
        "broken": [run["seed"] for run in done if run["exit_code"] == BROKEN],
        "proved_nothing": [run["seed"] for run in done if run["exit_code"] == PROVES_NOTHING],
        "did_not_take_place": [run["seed"] for run in runs if run["exit_code"] is None],
        "requests": sum(run["requests"] for run in done),
        "redelivered": sum(len(run["redelivered"]) for run in done),
        "fewest_redelivered": min((len(run["redelivered"]) for run in done), default=0),
        "longest_until_lag_zero_s": None if None in zeros else max(zeros, default=None),
        **{name: sum(run["measures"][name] for run in done) for name in measured},
    }


def _verdicts(done: Sequence[Plain]) -> Plain:
    sums: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for run in done:
        for verdict in run["verdicts"]:
            sums[verdict["promise"]].update({name: verdict[name] for name in ("checked", "broken", "excused")})
    return {promise: dict(counted) for promise, counted in sums.items()}


def _faults(done: Sequence[Plain]) -> Plain:
    sums: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for fault in (fault for run in done for fault in run["faults"]):
        sums[str(fault["kind"])].update({"done": not fault["note"], "left_out": bool(fault["note"])})
    return {kind: dict(counted) for kind, counted in sorted(sums.items())}


def _waits(kind: str, done: Sequence[Plain]) -> Plain:
    """The longest wait after each kill, over all models."""
    found = [(run["seed"], gap) for run in done for gap in run["gaps"] if gap["kind"] == kind]
    kills: dict[tuple[int, float], list[Plain]] = collections.defaultdict(list)
    for seed, gap in found:
        if gap["alone"]:
            kills[seed, gap["at"]].append(gap)
    waits = [max(gap["wait"] for gap in both) for both in kills.values()]
    silences = [max(gap["silence"] for gap in both) for both in kills.values()]
    return {
        "bar_s": BARS[kind],
        "alone": len(kills),
        "beside_others": len({(seed, gap["at"]) for seed, gap in found}) - len(kills),
        "over_bar": sum(wait > BARS[kind] for wait in waits),
        "wait_s": percentiles(waits),
        "silence_s": percentiles(silences),
        "waits_s": [round(wait, 3) for wait in sorted(waits)],
    }


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """Percentiles of the values; None if there are none."""
    ordered = sorted(values)

    def at(part: float) -> float | None:
        return round(ordered[max(0, math.ceil(part * len(ordered)) - 1)], 3) if ordered else None

    return {"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0)}


def histogram(values: Sequence[float]) -> str:
    """The counts per bucket of `BUCKETS`, without empty ones."""
    counted = collections.Counter(bisect.bisect_left(BUCKETS, value) for value in values)
    names = [*(f"≤ {bound:g} s" for bound in BUCKETS), f"> {BUCKETS[-1]:g} s"]
    return ", ".join(f"{name}: {counted[index]}" for index, name in enumerate(names) if counted[index])


def line(run: Plain) -> str:
    """One run as one line."""
    if run["exit_code"] is None:
        return f"seed {run['seed']:6}  did not take place: {run['error']}"
    facts = run["measures"]
    done = sum(not fault["note"] for fault in run["faults"])
    return (
        f"seed {run['seed']:6}  {_WORDS[run['exit_code']]:14}  {run['requests']} requests, {facts['answered']} answers, "
        f"{done} faults, {len(run['redelivered'])} redelivered, lag zero after {facts['lag_zero_after_s']} s"
    )


def table(report: Plain) -> Iterator[str]:
    """The merged report as Markdown, for a page."""
    about, totals = report["about"], report["totals"]
    versions = f"Penstock {about['penstock']}, Redis {', '.join(about['redis'])}, Python {about['python']}"
    yield f"{about['date']}, {versions}, {about['machine']}:"
    yield ""
    yield "| | |"
    yield "| --- | --- |"
    yield f"| runs (all promises held) | {totals['runs']} ({totals['held']}) |"
    for name in ("requests", "answered", "executions", "redelivered", "fewest_redelivered", "dead_letters"):
        yield f"| {name.replace('_', ' ')} | {totals[name]:,} |"
    yield f"| longest until the lag was zero | {totals['longest_until_lag_zero_s']} s |"
    for promise, counted in report["verdicts"].items():
        yield f"| {promise} | {counted['checked']:,} checked, {counted['broken']} broken, {counted['excused']} excused |"
    for kind, waits in report["waits"].items():
        wait, silence = waits["wait_s"], waits["silence_s"]
        yield (
            f"| {kind}: the longest wait of a caller | {waits['alone']} kills, median {wait['p50']} s, p90 {wait['p90']} s, "
            f"longest {wait['max']} s; silence at most {silence['max']} s |"
        )
        yield f"| {kind}: kills by that wait | {histogram(waits['waits_s']) or 'none'} |"
    done = ", ".join(f"{kind} {counted['done']}" for kind, counted in report["faults"].items())
    yield f"| faults done | {done} |"
    if left := ", ".join(
        f"{kind} {counted['left_out']}" for kind, counted in report["faults"].items() if counted["left_out"]
    ):
        yield f"| faults left out | {left} |"
