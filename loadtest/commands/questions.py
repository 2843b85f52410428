"""Benchmarks of one question each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from loadtest.commands.options import out_option, rounds_option, seconds_option
from loadtest.scaling.results import POLICIES


@click.command()
@click.option("--system", type=click.Choice(["embedded", "fleet"]), default="fleet", help="The system under siege.")
@click.option("--seconds", default=600.0, help="Under attack.")
@click.option("--before", default=60.0, help="Seconds of the honest caller alone.")
@click.option("--rate", default=50.0, help="Calls per second of the honest caller.")
@click.option("--scale", default=1.0, help="Factor for the attacks' rates, which suit two cores.")
@click.option("--limit-mib", default=512, help="The gateway's own limit.")
@click.option(
    "--gateway-option", "gateway_options", multiple=True, help="An option for its command line; may be repeated."
)
@click.option("--attack", "parts", multiple=True, help="Only attacks with this in their name; may be repeated.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the page here, and its JSON beside it."
)
def siege(out: Path | None, parts: tuple[str, ...], **options: Any) -> None:
    """A gateway under every attack at once, with an honest caller beside them. Exits with 1 if a promise broke."""
    from loadtest import siege as sieges
    from loadtest import siege_report

    found = sieges.run_siege(sieges.SiegePlan(**options, names=sieges.names_of(parts)), click.echo)
    page = siege_report.markdown(found)
    click.echo(page)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page)
        sieges.save(found, out.with_suffix(".json"))
    if not all(found.verdicts.values()):
        raise SystemExit(1)


@click.command()
@click.option(
    "--load",
    "loads",
    multiple=True,
    type=click.FloatRange(0.01, 1.0),
    default=(0.3, 0.6, 0.9),
    help="Share of the capacity; repeatable.",
)
@rounds_option(3, "Points of each load and routing.")
@seconds_option(10.0)
@out_option("docs/benchmarks/routing.md")
def routing(loads: tuple[float, ...], rounds: int, seconds: float, out: Path) -> None:
    """Routing by queue against spreading, on a local fleet of two workers, in alternated rounds (about four minutes)."""
    from loadtest.routing import run as run_routing

    run_routing(loads, rounds, seconds, out, click.echo)


@click.command()
@click.option("--simulate", is_flag=True, help="Replay a day of many models without servers, in about a minute.")
@click.option(
    "--models", "models_count", type=click.IntRange(3, 10_000), default=100, help="With --simulate: how many."
)
@click.option("--seed", default=0, help="Of the arrivals.")
@click.option("--policy", "policies", type=click.Choice(POLICIES), multiple=True, default=POLICIES, help="Repeatable.")
@click.option("--pace", type=click.FloatRange(0.05, 10.0), default=1.0, help="Factor for the lengths of the phases.")
@click.option("--wakes", type=click.IntRange(0), default=10, help="Ways from zero workers to an answer.")
@out_option("docs/benchmarks/scaling.md", "Page; its JSON and pictures go beside it.")
def scaling(  # noqa: PLR0913  # options
    *, simulate: bool, models_count: int, seed: int, policies: tuple[str, ...], pace: float, wakes: int, out: Path
) -> None:
    """Four autoscaling policies under one load, with real workers, one after the other (about twelve minutes)."""
    from loadtest.scaling.load import Phases
    from loadtest.scaling.run import run, run_simulation
    from loadtest.scaling.trial import TrialPlan

    if simulate:
        run_simulation(models_count, seed, out, click.echo)
    else:
        chosen = tuple(policy for policy in POLICIES if policy in policies)
        run(TrialPlan(Phases().scaled(pace), chosen, wakes=wakes, seed=seed), out, click.echo)


@click.command()
@click.argument("kind", type=click.Choice(["fleet", "embedded"]))
@rounds_option(3, "Points of one and of two processes.")
@seconds_option(5.0)
@click.option("--callers", type=click.IntRange(1), default=64, help="Connections.")
@out_option("docs/benchmarks/processes.md")
def processes(kind: Literal["fleet", "embedded"], rounds: int, seconds: float, callers: int, out: Path) -> None:
    """Two acceptor processes on two cores against one on one core, in alternated rounds (about a minute)."""
    from loadtest.acceptors import run as run_processes

    run_processes(kind, rounds, seconds, callers, out, click.echo)


@click.command()
@rounds_option(5, "Points of each generator.")
@click.option("--seconds", type=click.FloatRange(1.0), default=4.0, help="Of each point of wrk.")
@out_option("docs/benchmarks/demo.md")
def demo(rounds: int, seconds: float, out: Path) -> None:
    """The callers of `make demo` beside wrk, on one server, in alternated rounds (about a minute)."""
    from loadtest.demo import run as run_demo

    run_demo(rounds, seconds, out, click.echo)


@click.command(name="first-model")
@click.argument("kinds", nargs=-1, metavar="[KIND]...")
@click.option(
    "--page",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=Path("docs/first-hour.md"),
    help="The page that is run, and gets the table.",
)
@click.option(
    "--results",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("docs/benchmarks/first-model.json"),
    help="Where the seconds are kept.",
)
def first_model(kinds: tuple[str, ...], page: Path, results: Path) -> None:
    """From a fresh clone to the first answer of an own model: every command of docs/first-hour.md, timed (minutes)."""
    from loadtest.first_model import run as run_first

    run_first(kinds, page, results, click.echo)


@click.command(name="many-models")
@click.option("--members", multiple=True, type=click.IntRange(1), help="Idle models of one worker; repeatable.")
@click.option("--fleet", "fleets", multiple=True, type=click.IntRange(4), help="Models on four workers; repeatable.")
@click.option("--known", multiple=True, type=click.IntRange(1), help="Models that the gateway knows; repeatable.")
@rounds_option(3, "Points of each number of known models.")
@seconds_option(10.0, 0.5)
@out_option("docs/benchmarks/many-models.md")
def many_models(out: Path, rounds: int, seconds: float, **counts: tuple[int, ...]) -> None:
    """What many models cost: idle on one worker and on four, and for a call beside them; without numbers, all that the page has."""
    from loadtest.many_models import run as run_many

    chosen = (
        counts if any(counts.values()) else {"members": (1, 50, 100), "fleets": (100, 500), "known": (1, 100, 1000)}
    )
    run_many(chosen["members"], chosen["fleets"], chosen["known"], rounds, seconds, out, click.echo)
