"""Pictures of results, as PNG: latency against throughput, latency distributions, memory over time, scaling trials.

The only importer of matplotlib.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from loadtest.results import OpenPoint, Results
from loadtest.scaling.results import TITLES, PolicyRun

_SHARES: Final = (0.1, 0.5, 0.9, 0.99, 0.999)


def write_all(results: Results, folder: Path) -> list[Path]:
    """One picture per model and kind of measurement, and one of all soaks; returns the files.

    Raises:
        ModuleNotFoundError: matplotlib is not installed (extra `loadtest`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    models = list(dict.fromkeys(model for server in results.servers.values() for model in server.models))
    for model in models:
        served = {name: server.models[model] for name, server in results.servers.items() if model in server.models}
        if any(result.closed for result in served.values()):
            files.append(_throughput(results, model, folder / f"{model}-throughput.png"))
        points = [(name, point) for name, result in served.items() for point in result.open]
        if points:
            files.append(write_distribution(points, model, folder / f"{model}-latency.png"))
    if results.soaks:
        files.append(_memory(results, folder / "soak-memory.png"))
    return files


@contextmanager
def figure(path: Path, title: str, x: str, y: str) -> Iterator[Any]:
    """A picture to draw in, written at the end of the block."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(visible=True, alpha=0.3)
    yield axes
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=80)


def _throughput(results: Results, model: str, path: Path) -> Path:
    """Closed loop: each point is one number of callers."""
    with figure(path, f"{model}, closed loop", "answers per second", "latency, ms") as axes:
        axes.set_yscale("log")
        for name, server in results.servers.items():
            points = server.models[model].closed if model in server.models else []
            for percentile, style in (("p50", "o-"), ("p99", "s--")):
                rates = [point.rate for point in points]
                axes.plot(rates, [p.latency_ms[percentile] for p in points], style, ms=4, label=f"{name}, {percentile}")
            for point in points:
                axes.annotate(str(point.callers), (point.rate, point.latency_ms["p50"]), fontsize="x-small")
        if model in results.limits:
            axes.axvline(max(results.limits[model].values()), color="black", lw=1, ls=":", label="the limit")
    return path


def write_distribution(points: Iterable[tuple[str, OpenPoint]], title: str, path: Path) -> Path:
    """Open loop: the share of requests answered within each time, from the intended send time; points are named."""
    with figure(path, f"{title}, open loop", "latency, ms", "share of requests") as axes:
        axes.set_xscale("log")
        axes.set_yscale("logit")
        axes.set_ylim(0.05, 0.9999)
        axes.set_yticks(_SHARES, [f"{share * 100:g} %" for share in _SHARES])
        axes.minorticks_off()
        for name, point in points:
            if point.curve_ms:
                shares = [percentile / 100 for percentile, _ in point.curve_ms]
                label = f"{name}, {point.arrivals} {point.offered:,.0f}/s"
                axes.plot([value for _, value in point.curve_ms], shares, label=label)
    return path


def _memory(results: Results, path: Path) -> Path:
    """Soaks: resident memory by process over time."""
    with figure(path, "memory under steady load", "seconds", "MiB") as axes:
        for soak in results.soaks:
            for name in (name for name in soak.series[0] if name != "seconds"):
                seconds = [row["seconds"] for row in soak.series]
                axes.plot(seconds, [row[name] for row in soak.series], label=f"{soak.server} {soak.model}: {name}")
        axes.set_ylim(bottom=0)
    return path


def write_scaling(runs: Sequence[PolicyRun], spans: Sequence[tuple[float, float]], path: Path) -> Path:
    """A scaling trial over time, a line for each policy: unanswered requests, workers, seconds to drain, and p99.

    Args:
        spans: seconds within which the load is not 0, which are shaded.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 10), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(4, 1, sharex=True)
    titles = ("unanswered requests", "workers (started, not ended)", "seconds to drain", "p99 of requests due then, s")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize="medium", loc="left")
        axes.grid(visible=True, alpha=0.3)
        for begin, end in spans:
            axes.axvspan(begin, end, color="black", alpha=0.06, lw=0)
    for run in runs:
        label = TITLES[run.policy]
        seconds = [sample[0] for sample in run.samples]
        panels[0].plot(seconds, [sample[1] for sample in run.samples], label=label)
        panels[1].step(seconds, [sample[2] for sample in run.samples], where="post", label=label)
        drains = [float("nan") if sample[4] is None else sample[4] for sample in run.samples]
        panels[2].plot(seconds, drains, label=label)
        panels[3].plot([at for at, _ in run.tails], [p99 for _, p99 in run.tails], label=label)
    for axes in (panels[0], panels[2], panels[3]):
        axes.set_yscale("symlog", linthresh=1.0)
        axes.set_ylim(bottom=0)
    panels[3].set_xlabel("seconds since the load began")
    panels[0].legend(fontsize="small")
    figure.savefig(path, dpi=80)
    return path
