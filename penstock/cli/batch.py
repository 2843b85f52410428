"""`penstock batch`."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import click
import orjson
from click.core import ParameterSource

from penstock.batch.backends import Backend, Served
from penstock.batch.begin import Begin
from penstock.batch.journal import Journal, Saved
from penstock.batch.request import Request, check_request
from penstock.batch.spans import Spans
from penstock.batch.state import JobFolder, JobState, all_jobs, default_name, find_job, jobs_folder
from penstock.cli import interrupts
from penstock.cli.batch_jobs import facts_of, lines, table
from penstock.cli.batch_run import GOES_ON, Shown, run_job, submit_job
from penstock.cli.options import Decorator, api_key_option, fleet_options, option, options, url_option
from penstock.cli.settings import transport_settings
from protocol.errors import ConfigError, FleetError, InvalidArgument
from protocol.model_config import ModelConfig

_BROKEN_PIPE: Final = 141
_ENDS_WITHIN: Final = 30.0
"""Seconds that `cancel` waits for a submitter."""

_where: Decorator = options(url_option, api_key_option, fleet_options)
_state: Decorator = option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the jobs' journals. [~/.local/state/penstock]",
    default=None,
)
_json: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON, one document per line.")


@click.group()
def command() -> None:
    """Batch jobs: a file of rows in, a file of answers out, through the fleet's batch lane.

    \b
        penstock batch submit mymodel rows.jsonl -o answers.jsonl
        penstock batch list
        penstock batch status JOB
        penstock batch cancel JOB
        penstock batch results JOB -o again.jsonl
    """


@command.command()
@click.argument("model")
@click.argument("source", metavar="INPUT")
@options(
    click.option("--output", "-o", "target", required=True, metavar="FILE", help="Answers: JSON lines, or Parquet if it ends in .parquet; - is standard output."),  # noqa: E501
    click.option("--errors", default="", metavar="FILE", help="Lines without an answer go there, not to the output."),
    click.option("--job", "name", default="", help="Name of the job. [derived from model, input and output]"),
    click.option("--version", "version", default="", help="Model version. [the highest that is ready]"),
    click.option("--input-format", type=click.Choice(["jsonl", "csv", "tsv", "parquet"]), help="[by the name of INPUT; jsonl for -]"),  # noqa: E501
    click.option("--map", "maps", multiple=True, metavar="COLUMN=INPUT", help="A column for an input of another name; several columns, or a pattern such as 'pixel*', fill a vector; may be repeated."),  # noqa: E501
    click.option("--image-column", "image_columns", multiple=True, metavar="COLUMN[=INPUT]", help="The column holds paths of image files; may be repeated."),  # noqa: E501
    click.option("--image-mean", default="", metavar="R,G,B", help="Subtracted from pixels of 0 to 1, for inputs of floats."),
    click.option("--image-std", default="", metavar="R,G,B", help="Then they are divided by this."),
    click.option("--rows-per-record", "rows", type=click.IntRange(1, 65536), default=None, help="Rows that travel together. [up to 256; fewer for small files]"),  # noqa: E501
    click.option("--window", type=click.IntRange(1, 10_000_000), default=None, help="Rows in flight or not yet written. [16384]"),
    click.option("--unordered", is_flag=True, help="Write answers as they come, not in the order of the input."),
    click.option("--no-wait", is_flag=True, help="Send everything and end; the same command without it collects the answers."),
    click.option("--force", is_flag=True, help="Begin again, even if the job or its output is there already."),
    _where,
    _state,
    _json,
)  # fmt: skip
@click.pass_context
def submit(ctx: click.Context, /, model: str, source: str, name: str, as_json: bool, **flags: Any) -> None:
    """Send every row of INPUT to MODEL and write the answers; go on where an interrupted job has stopped.

    INPUT is JSON lines (an object of one row, {"X": [1, 2]}), CSV, Parquet, or - for standard input. An output line is {"line": 1,
    "outputs": {"Y": [3]}} or {"line": 1, "error": {"code": …, "message": …}}. Exits with 0 if every row has an answer, with 12 if
    some have an error, and with 130 if it was interrupted: then the same command goes on.

    \b
        penstock batch submit mymodel rows.jsonl -o answers.jsonl --errors errors.jsonl
        penstock batch submit mymodel rows.csv -o answers.parquet --map 'pixel*=X' --kafka localhost:9092 --redis redis://localhost
    """
    request = _request(model, source, flags)
    check_request(request)
    name = name or default_name(model, source, request.target)
    folder = JobFolder(jobs_folder(flags["state_dir"]), name)
    backend, way = _backend(ctx, flags)
    begin = Begin(request, folder, way)
    shown = Shown(name, as_json=as_json, aside=request.target == "-")
    begin.open()
    try:
        code = interrupts.run(submit_job(begin, backend, shown))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more at its end
        code = _BROKEN_PIPE
    except (FleetError, OSError) as error:
        if begin.journaled:
            shown.note(f"job {name} has stopped; {GOES_ON}")
        raise error
    finally:
        folder.unlock()
    _end(code)


def _end(code: int) -> None:
    """End with a code, though a thread may still wait for standard input."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        sys.exit(code)


def _request(model: str, source: str, flags: dict[str, Any]) -> Request:
    return Request(
        model=model, source=source, target=flags["target"], version=flags["version"], errors=flags["errors"],
        input_format=flags["input_format"] or "", maps=flags["maps"], image_columns=flags["image_columns"],
        mean=_numbers("--image-mean", flags["image_mean"]), std=_numbers("--image-std", flags["image_std"]),
        rows=flags["rows"] or 0, window=flags["window"] or 0, unordered=flags["unordered"], force=flags["force"],
        waits=not flags["no_wait"],
    )  # fmt: skip


def _numbers(flag: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise InvalidArgument(f"{flag} must be numbers, separated by commas, not '{text}'") from None


def _backend(ctx: click.Context, flags: dict[str, Any]) -> tuple[Backend, str]:
    """The way to the fleet, and its name in journals: the broker if one is given, otherwise the gateway."""
    kafka, url = (ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE for name in ("kafka", "url"))
    if kafka and url:
        raise ConfigError("give --kafka and --redis, or --url, not both")
    if flags["kafka"] and not url:
        from penstock.batch.backends.kafka import KafkaBackend
        from protocol.transport import open_transport

        settings = transport_settings(**flags)
        transport = open_transport(settings)
        return KafkaBackend(
            transport.bus, settings.names, transport.results, settings.kafka
        ), f"kafka {settings.prefix}"
    from penstock.batch.backends.http import HttpBackend

    return HttpBackend(flags["url"], flags["api_key"]), "http"


# --- the jobs of this machine ---


@command.command("list")
@options(_state, _json)
def list_(state_dir: Path | None, as_json: bool) -> None:
    """List the jobs of this machine."""
    now = time.time()
    jobs = sorted(all_jobs(jobs_folder(state_dir)), key=lambda job: job.saved.begin.get("created", 0.0))
    facts = [facts_of(job, now) for job in jobs]
    if as_json:
        for each in facts:
            print(orjson.dumps(each).decode())
        return
    print("\n".join([*table(facts), f"{len(jobs)} job(s)"]))


@command.command()
@click.argument("name", metavar="JOB")
@options(_state, _json)
def status(name: str, state_dir: Path | None, as_json: bool) -> None:
    """Show one job."""
    _, job = find_job(jobs_folder(state_dir), name)
    facts = facts_of(job, time.time())
    if as_json:
        print(orjson.dumps(facts, option=orjson.OPT_INDENT_2).decode())
        return
    print("\n".join(lines(facts)))


@command.command()
@click.argument("name", metavar="JOB")
@options(_where, _state)
@click.pass_context
def cancel(ctx: click.Context, /, name: str, **flags: Any) -> None:
    """Stop the process that submits JOB, and cancel its requests that no worker has begun.

    What is answered stays in the output. A cancelled job does not go on; the same command begins it again with --force.
    """
    folder, job = find_job(jobs_folder(flags["state_dir"]), name)
    if folder.stop_submitter(_ENDS_WITHIN):
        _, job = find_job(jobs_folder(flags["state_dir"]), name)
        if job.state == "cancelled":
            print(f"job {name} is cancelled after {job.saved.answered + job.saved.failed:,} lines")
            return
    if job.state in ("done", "cancelled"):
        print(f"job {name} is {job.state} already")
        return
    folder.lock()
    try:
        count = interrupts.run(_cancel(ctx, folder, job, flags))
        with_journal = Journal(folder.journal, job.saved.size)
        with_journal.append({"end": "cancelled", "at": time.time()})
        with_journal.close()
    finally:
        folder.unlock()
    print(f"job {name} is cancelled, with {count:,} records in flight")


def _require_way(job: JobState, way: str) -> None:
    """Refuse flags that lead to another fleet than the one that has the job's records."""
    if way != job.saved.begin["way"]:
        raise ConfigError(
            f"job '{job.name}' was sent through {job.saved.begin['way']}: give its --kafka, --redis and --prefix"
        )


async def _cancel(ctx: click.Context, folder: JobFolder, job: JobState, flags: dict[str, Any]) -> int:
    begin = job.saved.begin
    if not str(begin.get("way", "")).startswith("kafka"):
        return 0
    from penstock.batch.backends.kafka import KafkaBackend
    from penstock.batch.records import run_name

    backend, way = _backend(ctx, flags)
    _require_way(job, way)
    assert isinstance(backend, KafkaBackend)
    await backend.open()
    try:
        backend.use(
            run_name(folder.name, int(begin["run"])), Served(begin["version"], ModelConfig(name=begin["model"]))
        )
        return await backend.cancel()
    finally:
        await backend.close()


@command.command()
@click.argument("name", metavar="JOB")
@options(
    click.option("--output", "-o", "target", default="", metavar="FILE", help="Write all answers there. [say where the output is]"),
    click.option("--errors", default="", metavar="FILE", help="Lines without an answer go there."),
    click.option("--force", is_flag=True, help="Overwrite FILE."),
    _where,
    _state,
    _json,
)  # fmt: skip
@click.pass_context
def results(ctx: click.Context, /, name: str, target: str, as_json: bool, **flags: Any) -> None:
    """Write the answers of JOB again, from its topic of answers; without -o, say where they are.

    The input must still be there. Lines that were never sent, or whose answers the broker no longer has, get an error. A job that
    went through a gateway has no such topic: its output is its only copy.
    """
    _, job = find_job(jobs_folder(flags["state_dir"]), name)
    begin = job.saved.begin
    if not target:
        print(begin.get("target", ""))
        return
    backend, way = _backend(ctx, flags)
    if not str(begin.get("way", "")).startswith("kafka"):
        raise InvalidArgument(
            f"job '{name}' went through a gateway, which has no topic of answers; its output is {begin.get('target')}"
        )
    _require_way(job, way)
    request = _again(begin, target, flags)
    check_request(request)
    saved = Saved(begin=begin, end=job.saved.end, places=dict(job.saved.places))
    saved.known.sent, saved.known.alone, saved.known.logged = (
        Spans(job.saved.known.sent), Spans(job.saved.known.alone), set(job.saved.known.logged),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as empty:
        again = Begin(request, JobFolder(Path(empty), name), way)
        again.saved = saved
        _end(interrupts.run(run_job(again, backend, Shown(name, as_json=as_json, aside=target == "-"), collects=True)))


def _again(begin: dict[str, Any], target: str, flags: dict[str, Any]) -> Request:
    return Request(
        model=begin["model"], version=begin["version"], source=begin["source"], target=target, errors=flags["errors"],
        input_format=begin["format"], maps=tuple(begin["maps"]), image_columns=tuple(begin["images"]),
        mean=tuple(begin["mean"]),
        std=tuple(begin["std"]), force=flags["force"],
    )  # fmt: skip
