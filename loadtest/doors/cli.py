"""`python -m loadtest doors`: gRPC and large tensors, beside Triton."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

import click

from loadtest import interpreters, machine, triton
from loadtest.compare import triton_command
from loadtest.doors import report
from loadtest.doors.measure import PLANS, measure
from loadtest.doors.results import DoorResults
from loadtest.processes import cores

PAGE: Final = Path("docs/benchmarks/doors.md")


@click.command()
@click.option("--quick", is_flag=True, help="One round of short points. Not for publishing.")
@click.option("--only", multiple=True, type=click.Choice(list(PLANS)), help="Only this part; repeatable.")
@click.option("--rounds", type=click.IntRange(1), help="Instead of the plan's.")
@click.option(
    "--triton",
    "choice",
    envvar="PENSTOCK_BENCH_TRITON",
    help="An interpreter whose environment has nvidia-pytriton.  [default: .venv-triton/bin/python if it exists]",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=PAGE, help="Page.")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), default=Path(".cache/bench"), help="Models.")
def main(quick: bool, only: tuple[str, ...], rounds: int | None, choice: str | None, out: Path, cache: Path) -> None:
    """Compare gRPC and large tensors with Triton in alternated rounds (about 15 minutes; needs h2load and wrk).

    A part that is measured replaces that of an earlier run on the page; the others stay.
    """
    if choice is None:
        choice = str(triton.DEFAULT_PACKAGES) if triton.DEFAULT_PACKAGES.exists() else ""
    interpreter = interpreters.find(interpreters.here())[0]
    raw = out.with_suffix("") / "results.json"
    results = DoorResults.load(raw)
    for part in only or PLANS:
        plan = dataclasses.replace(PLANS[part], rounds=rounds or PLANS[part].rounds)
        if quick:
            plan = dataclasses.replace(plan, rounds=1, seconds=1)
        line = triton_command(choice)
        points = measure(
            plan, f"{line} --grpc-port {{grpc}}" if line else "", interpreter, cache.absolute() / "doors", click.echo
        )
        results.replace(part, points, machine.about(*cores()))
        results.save(raw)
    report.write(results, out)
    click.echo(f"wrote {out}")
