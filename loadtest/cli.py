"""The command line: `python -m loadtest run|closed|direct|siege|routing|processes|many-models|models|bench|page|triton|…`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any, Final, Literal, TextIO

import click

from loadtest import arrivals, comparison_report, direct, models, report, triton
from loadtest.comparison import Comparison
from loadtest.doors.cli import main as doors
from loadtest.producers.cli import main as producers
from loadtest.results import OpenPoint, Results
from loadtest.run import OpenPlan, closed_point, open_point
from loadtest.scaling.results import POLICIES
from loadtest.scenarios import SCENARIOS
from loadtest.tables import table
from loadtest.targets import TargetChoice
from protocol.errors import FleetError

_PAGE: Final = Path("docs/benchmarks.md")
_SURVEY: Final = Path("docs/benchmarks/survey.md")


class _Commands(click.Group):
    def invoke(self, context: click.Context) -> Any:
        """Errors that say what to do need no traceback."""
        try:
            return super().invoke(context)
        except (FleetError, OSError, ModuleNotFoundError, ValueError) as exc:
            raise click.ClickException(str(exc)) from exc


@click.group(cls=_Commands, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
def main() -> None:
    """Load a Penstock fleet (or any V2 server) and report latencies without coordinated omission.

    \b
    Start with:
      python -m loadtest run http://127.0.0.1:8000 --model digits --rate 200
    """


def _target_options(function: Any) -> Any:
    options = [
        click.argument("url"),
        click.option("--model", "-m", required=True, help="Model name."),
        click.option("--version", default="", show_default=False, help="Model version; the newest one unless given."),
        click.option("--redis", default="redis://127.0.0.1:6379", help="With kafka://: URL of the results."),
        click.option("--prefix", default="penstock", help="With kafka://: the fleet's prefix."),
        click.option(
            "--repository",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="Model repository: calls the model directly to know the right answers, and checks every one.",
        ),
        click.option("--integers-below", default=100, help="Random integers are drawn from 0 up to this."),
        click.option("--bodies", default=512, help="How many different bodies to send in rotation."),
        click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="An extra HTTP header."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def _page_options(function: Any) -> Any:
    """Where the page of a comparison goes."""
    for option in (
        click.option(
            "--readme",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Write the table of figures here, too.  [default: README.md with the default page]",
            show_default=False,
        ),
        click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=_PAGE, help="Page."),
    ):
        function = option(function)
    return function


def _choice(options: dict[str, Any]) -> TargetChoice:
    fields = {field.name for field in dataclasses.fields(TargetChoice)}
    return TargetChoice(**{name: options.pop(name) for name in list(options) if name in fields})


@main.command()
@_target_options
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


@main.command()
@_target_options
@click.option("--callers", "-c", default=[1], multiple=True, help="Callers at once; may be repeated.")
@click.option("--duration", "-d", default=5.0, help="Measured seconds for each number of callers.")
@click.option("--warmup", default=1.0, help="Seconds before those.")
def closed(as_json: bool, callers: tuple[int, ...], duration: float, warmup: float, **options: Any) -> None:
    """Closed loop: callers that wait for each answer before they send again. Shows capacity, hides stalls."""
    choice = _choice(options)
    points = [closed_point(choice.open(), count, duration, warmup) for count in callers]
    click.echo(json.dumps([dataclasses.asdict(p) for p in points]) if as_json else report.closed_table(points))


@main.command(name="direct")
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


@main.command()
@click.option("--duration", "-d", default=2.0, help="Seconds of CPU time per row.")
def safety(duration: float) -> None:
    """What the journal, heartbeats and child processes cost, in CPU time."""
    from loadtest.safety import measure

    with tempfile.TemporaryDirectory(prefix="penstock-safety-") as folder:
        click.echo(report.safety_table(measure(Path(folder), duration)))


@main.command()
@click.option("--rounds", default=2, help="How often each disturbance is caused; each time takes a quarter of an hour.")
@click.option("--seconds", default=60.0, help="Of calls before each disturbance, and from it on.")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), default=Path(".cache/bench"), help="Models.")
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


@main.command()
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


@main.command()
@click.option(
    "--load",
    "loads",
    multiple=True,
    type=click.FloatRange(0.01, 1.0),
    default=(0.3, 0.6, 0.9),
    help="Share of the capacity; repeatable.",
)
@click.option("--rounds", type=click.IntRange(1), default=3, help="Points of each load and routing.")
@click.option("--seconds", type=click.FloatRange(1.0), default=10.0, help="Of each point.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("docs/benchmarks/routing.md"),
    help="Page; its JSON goes beside it.",
)
def routing(loads: tuple[float, ...], rounds: int, seconds: float, out: Path) -> None:
    """Routing by queue against spreading, on a local fleet of two workers, in alternated rounds (about four minutes)."""
    from loadtest.routing import run as run_routing

    run_routing(loads, rounds, seconds, out, click.echo)


@main.command()
@click.option("--simulate", is_flag=True, help="Replay a day of many models without servers, in about a minute.")
@click.option(
    "--models", "models_count", type=click.IntRange(3, 10_000), default=100, help="With --simulate: how many."
)
@click.option("--seed", default=0, help="Of the arrivals.")
@click.option("--policy", "policies", type=click.Choice(POLICIES), multiple=True, default=POLICIES, help="Repeatable.")
@click.option("--pace", type=click.FloatRange(0.05, 10.0), default=1.0, help="Factor for the lengths of the phases.")
@click.option("--wakes", type=click.IntRange(0), default=10, help="Ways from zero workers to an answer.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("docs/benchmarks/scaling.md"),
    help="Page; its JSON and pictures go beside it.",
)
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


@main.command()
@click.argument("kind", type=click.Choice(["fleet", "embedded"]))
@click.option("--rounds", type=click.IntRange(1), default=3, help="Points of one and of two processes.")
@click.option("--seconds", type=click.FloatRange(1.0), default=5.0, help="Of each point.")
@click.option("--callers", type=click.IntRange(1), default=64, help="Connections.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("docs/benchmarks/processes.md"),
    help="Page; its JSON goes beside it.",
)
def processes(kind: Literal["fleet", "embedded"], rounds: int, seconds: float, callers: int, out: Path) -> None:
    """Two acceptor processes on two cores against one on one core, in alternated rounds (about a minute)."""
    from loadtest.acceptors import run as run_processes

    run_processes(kind, rounds, seconds, callers, out, click.echo)


@main.command()
@click.option("--rounds", type=click.IntRange(1), default=5, help="Points of each generator.")
@click.option("--seconds", type=click.FloatRange(1.0), default=4.0, help="Of each point of wrk.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("docs/benchmarks/demo.md"),
    help="Page; its JSON goes beside it.",
)
def demo(rounds: int, seconds: float, out: Path) -> None:
    """The callers of `make demo` beside wrk, on one server, in alternated rounds (about a minute)."""
    from loadtest.demo import run as run_demo

    run_demo(rounds, seconds, out, click.echo)


@main.command(name="first-model")
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


@main.command(name="many-models")
@click.option("--members", multiple=True, type=click.IntRange(1), help="Idle models of one worker; repeatable.")
@click.option("--fleet", "fleets", multiple=True, type=click.IntRange(4), help="Models on four workers; repeatable.")
@click.option("--known", multiple=True, type=click.IntRange(1), help="Models that the gateway knows; repeatable.")
@click.option("--rounds", type=click.IntRange(1), default=3, help="Points of each number of known models.")
@click.option("--seconds", type=click.FloatRange(0.5), default=10.0, help="Of each point.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("docs/benchmarks/many-models.md"),
    help="Page; its JSON goes beside it.",
)
def many_models(out: Path, rounds: int, seconds: float, **counts: tuple[int, ...]) -> None:
    """What many models cost: idle on one worker and on four, and for a call beside them; without numbers, all that the page has."""
    from loadtest.many_models import run as run_many

    chosen = (
        counts if any(counts.values()) else {"members": (1, 50, 100), "fleets": (100, 500), "known": (1, 100, 1000)}
    )
    run_many(chosen["members"], chosen["fleets"], chosen["known"], rounds, seconds, out, click.echo)


@main.command(name="models")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.argument("names", nargs=-1, type=click.Choice(list(models.ALL)))
def models_(folder: Path, names: tuple[str, ...]) -> None:
    """Write the benchmark's models (all, or the named ones) into a model repository FOLDER."""
    click.echo(models.write_repository(folder, names))


@main.command()
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
@_page_options
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), default=Path(".cache/bench"), help="Models.")
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


main.add_command(producers, "producers")
main.add_command(doors, "doors")


@main.command(name="page")
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_page_options
def page(results: Path, out: Path, readme: Path | None) -> None:
    """Write the page of a comparison again from its results file."""
    write_comparison(Comparison.load(results), out, readme)


def write_comparison(results: Comparison, out: Path, readme: Path | None) -> None:
    """The page, and README's table with it."""
    if readme is None and out == _PAGE:
        readme = Path("README.md")
    out.write_text(comparison_report.markdown(results))
    if readme is not None:
        readme.write_text(comparison_report.with_figures(readme.read_text(), results))
    click.echo(f"wrote {out}")


@main.command(name="triton")
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


@main.command()
@click.option("--quick", is_flag=True, help="About a minute: two models, few points. Not for publishing.")
@click.option(
    "--gpu", is_flag=True, help="Models on a GPU; nothing is pinned. Publish with --out docs/benchmarks-gpu.md."
)
@click.option(
    "--soak", "soak_s", default=0.0, help="Seconds at half the maximum rate, memory recorded; 600 to publish."
)
@click.option("--model", "names", multiple=True, type=click.Choice(list(models.MODELS)), help="Only this; repeatable.")
@click.option("--only", multiple=True, type=click.Choice(["embedded", "fleet"]), help="Only this system; repeatable.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=_SURVEY, help="Report.")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), default=Path(".cache/bench"), help="Models.")
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


@main.command(name="report")
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=_SURVEY)
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


def write_report(results: Results, out: Path) -> None:
    """Markdown at `out`; plots and results.json in the folder of the same name beside it."""
    from loadtest.plots import write_all

    folder = out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    pictures = write_all(results, folder)
    results.save(folder / "results.json")
    out.write_text(report.markdown(results, [f"{folder.name}/{picture.name}" for picture in pictures]))
