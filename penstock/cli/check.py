"""`penstock check`."""

from __future__ import annotations

import functools
import itertools
import sys
from pathlib import Path

import click
import orjson

from penstock.cli import meant
from penstock.cli.options import cache_options
from penstock.cli.repositories import RepositoryType
from protocol.errors import NotFound
from workers.backends import installed, load_backend
from workers.checking.compatibility import CheckResult, Status, check_repositories
from workers.instances.process import commands
from workers.instances.process.executor import ISOLATED, is_isolated
from workers.instances.process.pool import ChildPool
from workers.instances.warmup import samples, warm_up
from workers.repository.completion import BackendMetadata
from workers.repository.placement import place
from workers.repository.scan import ignored_folders
from workers.repository.sources import Sources
from workers.repository.version import ModelVersion


@click.command()
@click.argument("repository", nargs=-1, required=True, type=RepositoryType())
@cache_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of text.")
@click.option("--no-inspect", is_flag=True, help="Do not open model files: faster, and needs no framework.")
@click.option("--explain", is_flag=True, help="Also say what happens with each field that a config.pbtxt sets.")
@click.option("--run", is_flag=True, help="Also load every model and run a request of zeros.")
def command(
    repository: tuple[Path | str, ...],
    model_cache_dir: Path | None,
    model_cache_bytes: int,
    as_json: bool,
    no_inspect: bool,
    explain: bool,
    run: bool,
) -> None:
    """Report for every model of REPOSITORY whether it is served as by Triton (as far as checked), served with a difference, or
    refused, and why. With --explain, also what happens with each field of its config.pbtxt; with --run, whether it answers. Prints
    the digest of each version unless --no-inspect is given.

    Exits with 1 when a model is refused or fails, and with 4 when there is none.

    \b
        penstock check /models --json
        penstock check /models --run
        penstock check s3://https://minio:9000/models/prod
    """
    if run and no_inspect:
        raise click.UsageError("--run opens model files, which --no-inspect forbids: give one of them")
    children = ChildPool()
    for backend in ISOLATED:  # one fork server for all models of a backend
        children.hold(backend)
    results = []
    try:
        inspect = None if no_inspect else functools.partial(_inspect, children)
        attempt = functools.partial(_try, children) if run else None
        local, remote = [r for r in repository if isinstance(r, Path)], [r for r in repository if isinstance(r, str)]
        sources = Sources(local, remote, model_cache_dir, model_cache_bytes).refresh()
        for line in (*sources.ignored, *ignored_folders(sources.folders)):
            print(line, file=sys.stderr)
        refused = [CheckResult(name, Status.REFUSED, reasons=(reason,)) for name, reason in sources.refused.items()]
        checked = check_repositories(
            sources.folders, installed(), inspect, attempt, digests=not no_inspect, explain=explain
        )
        for result in itertools.chain(refused, checked):
            results.append(result)
            if not as_json:
                print(_text(result), flush=True)
    finally:
        for backend in ISOLATED:
            children.release(backend)
    if as_json:
        print(orjson.dumps([result.as_json() for result in results], option=orjson.OPT_INDENT_2).decode())
    if not results:
        raise NotFound(
            "no models found: a repository holds one folder per model, with one numbered folder per version, such as "
            "digits/1/model.onnx" + "".join(meant.without_models(folder, "penstock check") for folder in local[:1])
        )
    sys.exit(any(result.status in (Status.REFUSED, Status.FAILS) for result in results))


def _text(result: CheckResult) -> str:
    """The result, its checks, and its reasons."""
    versions = f" (versions {', '.join(map(str, result.versions))})" if result.versions else ""
    looked_at = f"; looked at: {', '.join(result.verified)}" if result.verified else ""
    notes = [f"note: {warning}" for warning in result.warnings]
    notes += [f"version {version}: digest {digest}" for version, digest in result.digests.items()]
    return "\n    ".join(
        [f"{result.model}: {result.status.value}{versions}{looked_at}", *result.reasons, *notes, *result.fields]
    )


def _inspect(children: ChildPool, version: ModelVersion) -> BackendMetadata | None:
    """Inspect a model as a worker would: in a separate process if it may crash."""
    if not is_isolated(version.config):
        return load_backend(version.config.backend).inspect(version)
    child = children.take(version.config.backend)
    try:
        return commands.inspect(child, version)[0]
    finally:
        child.kill()
        child.stop(0.0)


def _try(children: ChildPool, version: ModelVersion) -> None:
    """Load and warm up one instance, as a worker would."""
    placement = place(version.config, (), 1)[0]
    if not is_isolated(version.config):
        instance = load_backend(version.config.backend).load(version, placement)
        try:
            warm_up(instance, version.config, samples(version.config, str(version.version), version.folder))
        finally:
            instance.close()
        return
    child = children.take(version.config.backend)
    try:
        commands.load(child, version, placement)
    finally:
        child.kill()
        child.stop(0.0)
