"""Triton beside our servers."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import click

from loadtest import comparison_report, triton
from loadtest.commands.options import PAGE, cache_option, page_options
from loadtest.comparison import Comparison
from loadtest.scenarios import SCENARIOS


@click.command()
@click.option("--quick", is_flag=True, help="One round of short points. Not for publishing.")
@click.option("--only", multiple=True, type=click.Choice(list(SCENARIOS)), help="Only this scenario; repeatable.")
@click.option(
    "--triton",
    "triton_choice",
    envvar="PENSTOCK_BENCH_TRITON",
    help="An interpreter whose environment has nvidia-pytriton, or a command that starts Triton, with {repository}, {port} and, if"
    " needed, {free} and {python}.  [default: .venv-triton/bin/python if it exists]",
    show_default=False,
)
@click.option(
    "--python",
    "pythons",
    multiple=True,
    help="An interpreter for our servers, and Triton's models; repeatable.  [default: this one, and /usr/bin/python3 if it is"
    " another build of the same version]",
    show_default=False,
)
@click.option("--rounds", type=click.IntRange(1), help="Instead of the plan's.  [default: 5]", show_default=False)
@click.option("--seconds", type=click.IntRange(1), help="Of each point, instead of its scenario's.", show_default=False)
@page_options
@cache_option()
def bench(  # noqa: PLR0913  # options
    *,
    quick: bool,
    only: tuple[str, ...],
    triton_choice: str | None,
    pythons: tuple[str, ...],
    rounds: int | None,
    seconds: int | None,
    out: Path,
    readme: Path | None,
    cache: Path,
) -> None:
    """Compare with Triton in alternated rounds: about 20 minutes.

    Servers are pinned to one core and the load to another. A scenario replaces that of an earlier run on the page; the others stay,
    if they come from the same machine and packages.
    """
    from loadtest import interpreters, machine
    from loadtest.compare import Compare, Plan, triton_command
    from loadtest.processes import cores

    found = interpreters.find(pythons or interpreters.here())
    if triton_choice is None:
        triton_choice = str(triton.DEFAULT_PACKAGES) if triton.DEFAULT_PACKAGES.exists() else ""
    plan = Plan(found, triton_command(triton_choice))
    if quick:
        plan = dataclasses.replace(
            plan, interpreters=found[:1], rounds=1, seconds=1, warmup=1, broker_warmup=12.0, bare=0.3
        )
    plan = dataclasses.replace(
        plan, scenarios=only or plan.scenarios, rounds=rounds or plan.rounds, seconds=seconds or plan.seconds
    )
    raw = out.with_suffix("") / "results.json"
    about = machine.about(*cores())
    del about["commit"], about["date"]  # each scenario has its own
    about |= {
        f"Python {each.version}": f"{each.build}; the fixed loop takes {each.spin_ns:.0f} ns per iteration"
        for each in found
    }
    begun = (Comparison.load(raw) if raw.exists() else Comparison(about)).then(about)
    run_ = Compare(plan, cache.absolute() / "compared", begun, click.echo)
    try:
        run_.run()
    finally:
        run_.results.save(raw)
    write_comparison(run_.results, out, readme)


@click.command(name="page")
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@page_options
def page(results: Path, out: Path, readme: Path | None) -> None:
    """Write the page of a comparison again from its results file."""
    write_comparison(Comparison.load(results), out, readme)


def write_comparison(results: Comparison, out: Path, readme: Path | None) -> None:
    """The page, and README's table with it."""
    if readme is None and out == PAGE:
        readme = Path("README.md")
    out.write_text(comparison_report.markdown(results))
    if readme is not None:
        readme.write_text(comparison_report.with_figures(readme.read_text(), results))
    click.echo(f"wrote {out}")


@click.command(name="triton")
@click.argument("repository", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--packages", default=str(triton.DEFAULT_PACKAGES), help="Interpreter whose environment has nvidia-pytriton."
)
@click.option(
    "--python", help="Interpreter that runs Python models.  [default: that of the packages]", show_default=False
)
@click.option("--http-port", default=8000)
@click.option("--metrics-port", default=8002)
@click.option("--grpc-port", default=0, help="0 for no gRPC.")
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".cache/triton"),
    help="Where it is assembled.",
)
def triton_(  # noqa: PLR0913  # options
    repository: Path, packages: str, python: str | None, http_port: int, metrics_port: int, grpc_port: int, home: Path
) -> None:
    """Become the Triton server of the wheel nvidia-pytriton, with a model repository."""
    python = python or packages
    choice = triton.TritonChoice(
        packages, python, home / hashlib.sha256(f"{packages} {python}".encode()).hexdigest()[:8]
    )
    triton.start(choice, repository.absolute(), http_port, metrics_port, grpc_port)
