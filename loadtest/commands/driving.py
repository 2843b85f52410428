"""Load for a server that runs, and what a benchmark's model does without one."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any, TextIO

import click

from loadtest import arrivals, direct, models, report
from loadtest.commands.options import target_options
from loadtest.results import OpenPoint
from loadtest.run import OpenPlan, closed_point, open_point
from loadtest.tables import table
from loadtest.targets import TargetChoice


def _choice(options: dict[str, Any]) -> TargetChoice:
    fields = {field.name for field in dataclasses.fields(TargetChoice)}
    return TargetChoice(**{name: options.pop(name) for name in list(options) if name in fields})


@click.command()
@target_options
@click.option("--rate", "-r", default=100.0, help="Requests due per second.")
@click.option("--duration", "-d", default=10.0, help="Measured seconds.")
@click.option("--warmup", default=1.0, help="Seconds before those.")
@click.option(
    "--arrivals", "process", type=click.Choice(arrivals.PROCESSES), default="poisson", help="The arrival process."
)
@click.option("--seed", default=0, help="Of the arrivals.")
@click.option("--slo-ms", default=50.0, help="Goodput counts right answers within this time.")
@click.option("--rows", type=click.File("w"), help="Write one JSON line per request.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write the latency distribution as PNG.")
def run(as_json: bool, rows: TextIO | None, plot: Path | None, **options: Any) -> None:
    """Open loop: requests are due whatever the server does, and latency counts from the due time.

    URL is a base URL (http://127.0.0.1:8000), or kafka://HOST:PORT to publish straight to the fleet's topic.
    """
    choice = _choice(options)
    point = open_point(choice.open(), OpenPlan(**options), rows)
    if plot is not None:
        from loadtest.plots import write_distribution

        write_distribution([(choice.model, point)], choice.model, plot)
    click.echo(json.dumps(dataclasses.asdict(point)) if as_json else _describe(point))


def _describe(point: OpenPoint) -> str:
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in point.outcomes.items() if count)
    lines = [report.open_table([point]), f"{outcomes or 'nothing was sent'}"]
    lines += [f"{count} x {complaint}" for complaint, count in point.complaints.items()]
    return "\n".join(lines)


@click.command()
@target_options
@click.option("--callers", "-c", default=[1], multiple=True, help="Callers at once; may be repeated.")
@click.option("--duration", "-d", default=5.0, help="Measured seconds for each number of callers.")
@click.option("--warmup", default=1.0, help="Seconds before those.")
def closed(as_json: bool, callers: tuple[int, ...], duration: float, warmup: float, **options: Any) -> None:
    """Closed loop: callers that wait for each answer before they send again. Shows capacity, hides stalls."""
    choice = _choice(options)
    points = [closed_point(choice.open(), count, duration, warmup) for count in callers]
    click.echo(json.dumps([dataclasses.asdict(p) for p in points]) if as_json else report.closed_table(points))


@click.command(name="direct")
@click.argument("repository", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("model", type=click.Choice(list(models.ALL)))
@click.option("--duration", "-d", default=2.0, help="Seconds per batch size.")
@click.option(
    "--size", "sizes", type=int, multiple=True, default=direct.BATCH_SIZES, help="Batch size; may be repeated."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def direct_(repository: Path, model: str, duration: float, sizes: tuple[int, ...], as_json: bool) -> None:
    """The limit: call a benchmark model directly in a loop, on one thread."""
    limit = direct.measure(repository / model, models.ALL[model].inputs, duration, sizes)
    rows = {str(size): rate for size, rate in limit.items()}
    click.echo(json.dumps(rows) if as_json else table(("batch size", "rows/s"), rows.items()))


@click.command()
@click.option("--duration", "-d", default=2.0, help="Seconds of CPU time per row.")
def safety(duration: float) -> None:
    """What the journal, heartbeats and child processes cost, in CPU time."""
    from loadtest.safety import measure

    with tempfile.TemporaryDirectory(prefix="penstock-safety-") as folder:
        click.echo(report.safety_table(measure(Path(folder), duration)))


@click.command(name="models")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.argument("names", nargs=-1, type=click.Choice(list(models.ALL)))
def models_(folder: Path, names: tuple[str, ...]) -> None:
    """Write the benchmark's models (all, or the named ones) into a model repository FOLDER."""
    click.echo(models.write_repository(folder, names))
