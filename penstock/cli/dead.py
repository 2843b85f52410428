"""`penstock dead`."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import orjson

from penstock.cli import interrupts
from penstock.cli.files import FOLDER
from penstock.cli.options import Decorator, fleet_options, option, options, seconds
from penstock.cli.settings import transport_settings
from penstock.dead import reproducer, selection, showing, topic
from penstock.dead.letters import ReadLetter
from penstock.dead.redriving import RedrivePlan, plan_redrives
from penstock.dead.selection import Selection
from protocol.dead_letter import REASONS, UNKNOWN
from protocol.errors import ConfigError, InvalidArgument, NotFound
from protocol.naming import Names
from protocol.ports import Bus
from protocol.transport.settings import TransportSettings

T = TypeVar("T")

ASK_ABOVE: Final = 10
"""Maximum number of records that are sent again without confirmation."""

_where: Decorator = options(
    fleet_options,
    option("--data-dir", type=FOLDER, help="The folder of a stopped `penstock serve`, instead of --kafka and --redis."),
    click.option("--model", "models", multiple=True, metavar="NAME", help="Only this model; may be repeated. [all]"),
)  # fmt: skip
_which: Decorator = options(
    click.option("--reason", "reasons", multiple=True, type=click.Choice([*REASONS, UNKNOWN]), help="Only this reason; may be repeated. [all]"),  # noqa: E501
    click.option("--since", metavar="AGE|DATE", help="Only letters no older than: 90s, 30m, 2h, 7d, or 2026-01-31T12:00 in UTC."),
    click.option("--worker", default="", help="Only letters of this worker."),
    click.option("--id", "ids", multiple=True, metavar="ID", help="Only this letter: its id, or <model>/<partition>/<offset>; may be repeated."),  # noqa: E501
)  # fmt: skip
_json: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def command() -> None:
    """Dead letters: list the requests that workers gave up on, see why, run them in a process that may die, send them again.

    \b
        penstock dead list --kafka localhost:9092 --redis redis://localhost:6379
        penstock dead show ID
        penstock dead reproduce ID --model-repository models
        penstock dead redrive --model mymodel --since 2h

    \b
    The fleet's flags can come from the environment:
        export PENSTOCK_KAFKA=localhost:9092 PENSTOCK_REDIS=redis://localhost:6379
    """


@command.command("list")
@options(_where, _which, _json)
def list_(models: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """List dead letters, oldest first, with counts by reason.

    \b
        penstock dead list --model mymodel --reason poison --since 2h
    """
    settings, chosen = _settings(flags), _selection(flags)
    found = _run(settings, lambda bus: _dead_topics(bus, settings.names, models))
    letters = sorted(
        (letter for each in found for letter in each.letters if chosen.covers(letter)), key=lambda x: x.dead_lettered_at
    )
    redriven = {note.root_ref: note.id for each in found for note in each.notes}
    if as_json:
        listed = [
            showing.summary(letter, settings.names) | {"redriven_as": redriven.get(letter.root_ref)}
            for letter in letters
        ]
        _print({"letters": listed, "counts": selection.counted(letters)})
        return
    for line in showing.table(letters, redriven, shutil.get_terminal_size((132, 24)).columns) if letters else ():
        print(line)
    counts = ", ".join(f"{count} {reason}" for reason, count in selection.counted(letters).items())
    print(f"{len(letters)} dead letter(s)" + (f": {counts}" if counts else ""))


@command.command()
@click.argument("name", metavar="ID")
@options(_where, _json)
def show(name: str, models: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Show the dead letter ID: evidence, headers and inputs; the newest if there are several.

    \b
        penstock dead show 5f0c9a7e --json
    """
    settings = _settings(flags)
    letter, value = _run(settings, lambda bus: _fetch(bus, settings.names, models, name))
    facts = showing.whole(letter, value, settings.names)
    if as_json:
        _print(facts)
    else:
        print("\n".join(showing.page(facts)))


@command.command()
@click.argument("name", metavar="[ID]", default="")
@options(
    _where,
    click.option("--from", "source", type=FOLDER, help="A folder that --export wrote, instead of ID."),
    option("--model-repository", multiple=True, type=FOLDER, help="The model's repository; may be repeated. [--from's own models]"),
    click.option("--version", "version", default="", help="Version of the model to run. [the version in which it died]"),
    click.option("--time-limit", type=float, callback=seconds, default=120.0, show_default=True, help="Seconds for loading and running; after that it counts as hung."),  # noqa: E501
    click.option("--export", "target", type=click.Path(path_type=Path), help="Write a reproducer into this new folder."),
    click.option("--with-model", is_flag=True, help="With --export: include a copy of the model version."),
    _json,
)  # fmt: skip
def reproduce(name: str, models: tuple[str, ...], source: Path | None, as_json: bool, **flags: Any) -> None:
    """Run the dead letter ID alone against its model, in a child process that may die; the worker's own backends load the model.

    Exits with 0 if it crashed, hung, failed or was refused again, and with 1 if it succeeded. With --export and without
    --model-repository nothing is run.

    \b
        penstock dead reproduce 5f0c9a7e --model-repository models
        penstock dead reproduce 5f0c9a7e --export case --with-model --model-repository models
        penstock dead reproduce --from case
    """
    if bool(name) == bool(source):
        raise InvalidArgument("say which dead letter: ID, or --from FOLDER that --export wrote")
    case = reproducer.load_case(source) if source else _case(_settings(flags), models, name)
    version, repositories, target = flags["version"] or case.version, list(flags["model_repository"]), flags["target"]
    if source and not repositories and (source / reproducer.MODELS).is_dir():
        repositories = [source / reproducer.MODELS]
    if target:
        _export(target, case, version, repositories if flags["with_model"] else None)
        if not as_json:
            print(
                f"{target} holds the request; python {target / reproducer.SCRIPT} --model-repository DIR runs it",
                file=sys.stderr,
            )
    if repositories:
        sys.exit(_reproduce(case, repositories, version, flags["time_limit"], as_json))
    if not target:
        raise ConfigError("give --model-repository, the repository of the model to run the request against")


@command.command()
@options(
    _where,
    _which,
    click.option("--rate", type=click.FloatRange(min=0), default=10.0, show_default=True, help="Records a second; 0 for no limit."),
    click.option("--dry-run", is_flag=True, help="Print what would be sent, and send nothing."),
    click.option("--again", is_flag=True, help="Include requests that were already sent again."),
    click.option("--yes", "-y", is_flag=True, help=f"Do not ask before sending more than {ASK_ABOVE}."),
    _json,
)  # fmt: skip
def redrive(models: tuple[str, ...], as_json: bool, yes: bool, **flags: Any) -> None:
    """Send dead letters again, to the topics that they came from, as <id>~r<n> and without their deadline.

    Prints where each answer can be read. Requests sent again since they died are left out unless --again is given. Exits with 1
    if a record could not be sent.

    \b
        penstock dead redrive --model mymodel --reason poison --dry-run
        penstock dead redrive --id 5f0c9a7e
    """
    settings, chosen = _settings(flags), _selection(flags)
    names = settings.names

    async def work(bus: Bus) -> int:
        found = await _dead_topics(bus, names, models)
        plans = [
            plan_redrives(
                [x for x in each.letters if chosen.covers(x)], each.letters, each.notes, names, again=flags["again"]
            )
            for each in found
        ]
        count = sum(len(each.redrives) for each in plans)
        if count > ASK_ABOVE and not (yes or flags["dry_run"]):
            await asyncio.to_thread(click.confirm, f"Send {count} requests again?", abort=True, err=True)
        return await _send(bus, names, plans, flags, as_json)

    sys.exit(_run(settings, work))


async def _send(bus: Bus, names: Names, plans: list[RedrivePlan], flags: dict[str, Any], as_json: bool) -> int:
    """The exit code."""
    redrives = [redrive for each in plans for redrive in each.redrives]
    skipped = [skip for each in plans for skip in each.skipped]
    say: Callable[[topic.Sent], None] = (
        (lambda _: None) if as_json else lambda sent: print(_sent_line(sent, names), flush=True)
    )
    if flags["dry_run"]:
        done = [topic.Sent(redrive, None) for redrive in redrives]
        for each in done:
            say(each)
    else:
        done = await topic.send_again(bus, names, redrives, flags["rate"], say)
    failed = sum(bool(each.problem) for each in done)
    if as_json:
        left = [{"id": each.letter.id, "place": each.letter.place, "why": each.why} for each in skipped]
        _print({"redriven": [_facts(each, names) for each in done], "skipped": left, "dry_run": flags["dry_run"]})
    else:
        for skip in skipped:
            print(f"left out    {showing.clean(skip.letter.id)}: {showing.clean(skip.why)}")
        verb = "would be sent again" if flags["dry_run"] else "sent again"
        print(f"{len(done) - failed} {verb}, {failed} failed, {len(skipped)} left out")
    return 1 if failed else 0


def _sent_line(sent: topic.Sent, names: Names) -> str:
    facts = {key: showing.clean(str(value)) for key, value in _facts(sent, names).items()}
    if sent.problem:
        return f"not sent    {facts['redrive_of']}: {facts['problem']}"
    if sent.published is None:
        return f"would send  {facts['redrive_of']} to {facts['topic']} as {facts['id']}"
    return f"sent        {facts['redrive_of']} to {facts['record']}; answer: GET {facts['url']}, or Redis {facts['stream']}"


def _facts(sent: topic.Sent, names: Names) -> dict[str, Any]:
    from urllib.parse import quote

    from protocol.naming import ref

    letter, published = sent.redrive.letter, sent.published
    name = ref(letter.principal, sent.redrive.id)
    return {
        "redrive_of": letter.id, "id": sent.redrive.id, "principal": letter.principal, "topic": letter.topic,
        "record": f"{published.topic}/{published.partition}/{published.offset}" if published else None,
        "problem": sent.problem or None, "url": f"/v2/requests/{quote(sent.redrive.id, safe='~')}",
        "stream": names.result_key(name),
    }  # fmt: skip


def _case(settings: TransportSettings, models: tuple[str, ...], name: str) -> reproducer.Case:
    letter, value = _run(settings, lambda bus: _fetch(bus, settings.names, models, name))
    if letter.reason == "lost":
        raise InvalidArgument(f"{letter.id} is a note that records were deleted unread: there is nothing to run")
    if letter.left_out:
        raise InvalidArgument(f"{letter.id} has only the evidence: {letter.left_out} were too large to keep")
    return reproducer.Case(letter, letter.version(settings.names) or "1", value)


def _export(target: Path, case: reproducer.Case, version: str, repositories: list[Path] | None) -> None:
    from penstock.dead.reproduce_child import find_version

    model = None
    if repositories is not None:
        if not repositories:
            raise ConfigError("--with-model copies the model from --model-repository")
        model = find_version(repositories, case.letter.model, version, digests=False)
    reproducer.write_case(target, case, model)


def _reproduce(case: reproducer.Case, repositories: list[Path], version: str, limit: float, as_json: bool) -> int:
    """The exit code."""
    from penstock.dead.reproduction import reproduce_case
    from penstock.dead.reproduction_result import difference

    outcome = reproduce_case(case, repositories, version, limit)
    remark = difference(outcome, case.letter)
    if as_json:
        _print(outcome.as_json() | {"remark": remark or None, "id": case.letter.id, "version": version})
    else:
        print(f"{outcome.end}: {showing.printable(outcome.text)}" + (f" ({remark})" if remark else ""))
        for each in outcome.outputs:
            print(f"  {each['name']} {each['datatype']}{each['shape']} = {each.get('first_values')}")
        if outcome.trace and outcome.reproduced:
            print(showing.printable(outcome.trace))
    return 0 if outcome.reproduced else 1


# --- the bus ---------------------------------------------------------------------------------------------------------


def _settings(flags: dict[str, Any]) -> TransportSettings:
    data_dir: Path | None = flags["data_dir"]
    if not flags["kafka"] and data_dir is None:
        raise ConfigError(
            "name the fleet whose dead letters to read: --kafka HOST:PORT and --redis URL; or in --data-dir DIR"
        )
    return transport_settings(**flags)


def _selection(flags: dict[str, Any]) -> Selection:
    start = selection.since(flags["since"], time.time()) if flags["since"] else 0.0
    return Selection(flags["reasons"], start, flags["worker"], flags["ids"])


def _run(settings: TransportSettings, work: Callable[[Bus], Coroutine[Any, Any, T]]) -> T:
    async def run() -> T:
        async with _bus(settings) as bus:
            return await work(bus)

    return interrupts.run(run())


@contextlib.asynccontextmanager
async def _bus(settings: TransportSettings) -> AsyncIterator[Bus]:
    """The open bus alone: Redis may be unreachable."""
    from protocol.transport import open_transport

    if settings.data_dir is not None:
        from protocol.transport.embedded.sqlite import BUS_FILE

        if not (settings.data_dir / BUS_FILE).is_file():
            raise NotFound(
                f"--data-dir {settings.data_dir} holds no {BUS_FILE}: it is not the folder of a penstock serve"
            )
    bus = open_transport(settings).bus
    await bus.open()
    try:
        yield bus
    finally:
        await bus.close()


async def _dead_topics(bus: Bus, names: Names, models: tuple[str, ...]) -> list[topic.DeadTopic]:
    return [
        await topic.read_dead_topic(bus, names, model) for model in models or await topic.models_announced(bus, names)
    ]


async def _fetch(bus: Bus, names: Names, models: tuple[str, ...], name: str) -> tuple[ReadLetter, bytes]:
    """The newest letter of that name, and its value."""
    found = await _dead_topics(bus, names, models)
    letters = [letter for each in found for letter in each.letters if selection.is_called(letter, name)]
    if not letters:
        searched = ", ".join(each.model for each in found) or "no model, because none was ever announced"
        raise NotFound(f"there is no dead letter {name!r}; looked at: {searched}")
    letter = max(letters, key=lambda each: each.dead_lettered_at)
    return letter, await topic.read_value(bus, names, letter)


def _print(document: dict[str, Any]) -> None:
    print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
