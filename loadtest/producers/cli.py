"""`python -m loadtest producers`: the benchmarks of batch producers, from one command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from loadtest import machine, models
from loadtest.processes import cores
from loadtest.producers import files, lanes, million, packed, report
from loadtest.producers.results import ProducerResults

PAGE: Final = Path("docs/benchmarks/producers.md")
ROWS: Final = {"mlp": 40_000, "encoder": 4_000}
SIZES: Final = (1, 32, 256)


def _files(results: ProducerResults, cache: Path, quick: bool) -> None:
    for model, rows in ROWS.items():
        results.files[model] = files.run_rounds(
            cache, model, rows // (10 if quick else 1), 1 if quick else 3, click.echo
        )


def _packed(results: ProducerResults, cache: Path, quick: bool) -> None:
    results.packed = packed.measure(cache, SIZES, 100_000 if quick else 1_000_000, click.echo)


def _lanes(results: ProducerResults, cache: Path, quick: bool) -> None:
    plan = lanes.LanePlan(bounds_ms=(20.0,), seconds=3.0) if quick else lanes.LanePlan()
    results.lanes = lanes.measure(cache, plan, click.echo)


def _million(results: ProducerResults, cache: Path, quick: bool) -> None:
    results.million = million.run(cache, 50_000 if quick else 1_000_000, click.echo)


PARTS: Final[dict[str, Callable[[ProducerResults, Path, bool], None]]] = {
    "files": _files,
    "packed": _packed,
    "lanes": _lanes,
    "million": _million,
}


@click.command()
@click.option("--quick", is_flag=True, help="Short points. Not for publishing.")
@click.option("--only", multiple=True, type=click.Choice(list(PARTS)), help="Only this part; repeatable.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=PAGE, help="Page.")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), default=Path(".cache/bench"), help="Models.")
def main(quick: bool, only: tuple[str, ...], out: Path, cache: Path) -> None:
    """Batch producers: files, packed records, lanes, and a million lines through a fleet that breaks (about 30 minutes).

    A part that is measured replaces that of an earlier run on the page; the others stay.
    """
    raw = out.with_suffix("") / "results.json"
    results, folder = ProducerResults.load(raw), models.write_repository(cache.absolute(), ("addsub", *ROWS))
    for part in only or PARTS:
        PARTS[part](results, folder, quick)
        results.about[part] = machine.about(*cores())
        results.save(raw)
    report.write(results, out)
    click.echo(f"wrote {out}")
    if results.million is not None and results.million.problems:
        raise SystemExit(1)
