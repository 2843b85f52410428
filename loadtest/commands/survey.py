"""Our servers alone, and what disturbs them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

import click

from loadtest import models, report
from loadtest.commands.options import cache_option, out_option
from loadtest.results import Results

_SURVEY: Final = Path("docs/benchmarks/survey.md")


@click.command()
@click.option("--quick", is_flag=True, help="About a minute: two models, few points. Not for publishing.")
@click.option(
    "--gpu", is_flag=True, help="Models on a GPU; nothing is pinned. Publish with --out docs/benchmarks-gpu.md."
)
@click.option(
    "--soak", "soak_s", default=0.0, help="Seconds at half the maximum rate, memory recorded; 600 to publish."
)
@click.option("--model", "names", multiple=True, type=click.Choice(list(models.MODELS)), help="Only this; repeatable.")
@click.option("--only", multiple=True, type=click.Choice(["embedded", "fleet"]), help="Only this system; repeatable.")
@out_option(_SURVEY, "Report.")
@cache_option()
def survey(quick: bool, gpu: bool, soak_s: float, out: Path, cache: Path, **chosen: tuple[str, ...]) -> None:
    """Our servers alone: the model called directly, the one-process fleet, and the fleet on Kafka and Redis.

    Servers are pinned to one core and the load to another. Takes about an hour without --soak.
    """
    from loadtest.survey import GPU, QUICK, Survey, SurveyPlan

    plan = dataclasses.replace(GPU if gpu else QUICK if quick else SurveyPlan(), soak_s=soak_s)
    plan = dataclasses.replace(plan, models=chosen["names"] or plan.models, systems=chosen["only"] or plan.systems)
    run_ = Survey(plan, cache.absolute(), click.echo)
    try:
        run_.run()
    finally:
        run_.results.save(cache / "results.json")
    write_report(run_.results, out)
    click.echo(f"wrote {out}")


@click.command(name="report")
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@out_option(_SURVEY, "Report.")
@click.option(
    "--soaks",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Results of another run: take its soaks.",
)
def report_(results: Path, out: Path, soaks: Path | None) -> None:
    """Write the report of a survey and its plots again from a results file."""
    loaded = Results.load(results)
    if soaks is not None:
        other = Results.load(soaks)
        source = f"commit {other.about['commit']}, {other.about['date']}"
        loaded.soaks[:] = [dataclasses.replace(soak, source=soak.source or source) for soak in other.soaks]
    write_report(loaded, out)
    click.echo(out)


@click.command()
@click.option("--rounds", default=2, help="How often each disturbance is caused; each time takes a quarter of an hour.")
@click.option("--seconds", default=60.0, help="Of calls before each disturbance, and from it on.")
@cache_option()
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="A report of `survey`: replace its disturbances."
)
def disturb(rounds: int, seconds: float, cache: Path, out: Path | None) -> None:
    """What the callers of one model notice while another loads, or a worker joins or leaves."""
    from loadtest.disturbance import measure

    found = measure(cache.absolute(), rounds, click.echo, seconds)
    click.echo(report.disturbances_table(found))
    if out is not None:
        results = Results.load(out.with_suffix("") / "results.json")
        write_report(dataclasses.replace(results, disturbances=found), out)


def write_report(results: Results, out: Path) -> None:
    """Markdown at `out`; plots and results.json in the folder of the same name beside it."""
    from loadtest.plots import write_all

    folder = out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    pictures = write_all(results, folder)
    results.save(folder / "results.json")
    out.write_text(report.markdown(results, [f"{folder.name}/{picture.name}" for picture in pictures]))
