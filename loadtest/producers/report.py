"""The page of the batch benchmarks, docs/benchmarks/producers.md, and its pictures."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

from loadtest.producers.lanes import LanePair
from loadtest.producers.million import MillionRun
from loadtest.producers.results import ProducerResults
from loadtest.tables import table

GOALS = {"mlp": 0.8, "encoder": 0.95}
"""Share of the plain loop's rate that a submitted file should reach."""


def write(results: ProducerResults, page: Path) -> None:
    """Write the page, and the pictures into the folder of its name."""
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    if results.lanes:
        _plot_lanes(results.lanes, folder / "lanes.png")
    if results.million is not None:
        _plot_memory(results.million, folder / "million.png")
    page.write_text("\n".join(_sections(results, folder)))


def _docstrings(folder: Path) -> Iterator[str]:
    picture = folder / "docstrings.png"
    if picture.exists():
        yield "## A real data set\n"
        yield (
            "The paragraphs of the documentation strings of the standard library and of all packages that the tests need, through "
            "the model of [examples/docstrings](../../examples/docstrings/train.py), Parquet to Parquet over HTTP, all on two "
            "cores; drawn by the example's plot.py.\n"
        )
        yield f"![rows per second over time]({folder.name}/{picture.name})\n"


def _sections(results: ProducerResults, folder: Path) -> Iterator[str]:
    yield "# Batch producers\n"
    yield (
        "Made by `python -m loadtest producers`; the raw figures are in [results.json](producers/results.json). Ratios are of "
        "one run on one machine; rates of this shared machine vary by the hour.\n"
    )
    if results.files:
        yield from _files(results)
    if results.packed:
        yield from _packed(results)
    if results.lanes:
        yield from _lanes(results)
    yield from _docstrings(folder)
    if results.million is not None:
        yield from _million(results.million)
    yield "## Machine\n"
    for part, facts in results.about.items():
        yield table((part, ""), facts.items())


def _files(results: ProducerResults) -> Iterator[str]:
    yield "## A file through a model\n"
    yield (
        "`penstock batch submit MODEL FILE.jsonl -o OUT.jsonl --url …` against a plain loop that reads the same file, calls the "
        "framework with 32 rows and writes the same lines. Submitter and `penstock serve` share a core; the loop has it to itself. "
        "The submitter's time is that of its whole process; the loop's begins once its model is loaded.\n"
    )
    rows = [
        (model, statistics.median(r.loop for r in rounds), statistics.median(r.submit for r in rounds),
         statistics.median(r.share for r in rounds), min(r.share for r in rounds), max(r.share for r in rounds), GOALS.get(model))
        for model, rounds in results.files.items()
    ]  # fmt: skip
    yield table(("model", "loop, rows/s", "submitted, rows/s", "share (median)", "lowest", "highest", "goal"), rows)


def _packed(results: ProducerResults) -> Iterator[str]:
    yield "## Rows per record\n"
    yield (
        "add/sub through Kafka, answers on a topic, msgpack; producer and reader on one core, broker, store, gateway and worker "
        "on another. From the first publish to the last answer read.\n"
    )
    names = list(results.packed[0].cpu_us)
    rows = [(p.rows, p.records, p.rate, *(p.cpu_us[name] for name in names)) for p in results.packed]
    yield table(("rows a record", "records", "rows/s", *(f"{name}, CPU µs a row" for name in names)), rows)


def _lanes(results: ProducerResults) -> Iterator[str]:
    yield "## Interactive calls beside a backlog\n"
    yield (
        "The MLP on the fleet with Kafka and Redis on one core, open-loop callers on another. Each row is a pair: the same "
        "arrivals without and with a backlog of 256-row records in the batch lane. *load* is a share of the rate at which the "
        "model answers requests one by one. *bound* is `--batch-lane-max-ms`; *share* is what the backlog got of the rows that "
        "the model could have answered in full batches in the time that the callers leave. Broker, store, gateway and worker "
        "share the core with the model, so the share stays below one.\n"
    )
    rows = [
        (p.bound_ms, f"{p.load:.0%}", p.execution_ms, p.alone.latency_ms["p50"], p.beside.latency_ms["p50"],
         p.alone.latency_ms["p99"], p.beside.latency_ms["p99"], p.beside.latency_ms["p99"] - p.alone.latency_ms["p99"],
         f"{p.batch_rows_s / p.spare_rows_s:.0%}")
        for p in results.lanes
    ]  # fmt: skip
    columns = (
        "bound, ms", "load", "a full batch, ms", "p50 alone", "p50 beside", "p99 alone", "p99 beside", "p99 more, ms", "share",
    )  # fmt: skip
    yield table(columns, rows)
    yield "![p99 against the backlog's share](producers/lanes.png)\n"


def _million(run: MillionRun) -> Iterator[str]:
    yield f"## {run.lines:,} lines through a fleet that breaks\n"
    verdict = (
        "Every line was answered once, in order, with the right values."
        if not run.problems
        else "; ".join(run.problems)
    )
    place = "add/sub, Kafka and Redis, two workers (which hold the other models and PyTorch, too), all on two cores"
    yield f"{place}, {run.seconds:.0f} s. {verdict}\n"
    yield table(("s", "what happened"), [(round(at), name) for at, name in run.events])
    yield table(("process", "highest resident memory, MiB"), sorted(run.peak_mib.items()))
    yield "![memory and progress](producers/million.png)\n"


def _plot_lanes(pairs: list[LanePair], path: Path) -> None:
    from loadtest.plots import figure

    with figure(
        path, "Interactive p99 beside a backlog", "share of the spare capacity that the backlog gets", "p99, ms"
    ) as axes:
        for load in sorted({p.load for p in pairs}):
            chosen = sorted((p for p in pairs if p.load == load), key=lambda p: p.bound_ms)
            shares = [p.batch_rows_s / p.spare_rows_s for p in chosen]
            (line,) = axes.plot(
                shares, [p.beside.latency_ms["p99"] for p in chosen], "o-", label=f"{load:.0%} load, beside the backlog"
            )
            alone = statistics.median(p.alone.latency_ms["p99"] for p in chosen)
            axes.axhline(alone, linestyle=":", color=line.get_color(), label=f"{load:.0%} load, alone")
            for p, share in zip(chosen, shares, strict=True):
                axes.annotate(f"{p.bound_ms:g} ms", (share, p.beside.latency_ms["p99"]))


def _plot_memory(run: MillionRun, path: Path) -> None:
    from loadtest.plots import figure

    with figure(path, f"{run.lines:,} lines", "s", "resident memory, MiB") as axes:
        for name in sorted(run.peak_mib):
            points = [(s.at, s.memory_mib[name]) for s in run.samples if name in s.memory_mib]
            axes.plot(*zip(*points, strict=True), label=name)
        for at, _ in run.events:
            axes.axvline(at, linestyle=":", color="gray")
        axes.set_ylim(bottom=0)
