"""`penstock check`."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import click
import orjson

from workers import checking
from workers.backends import installed, load_backend
from workers.children import orders
from workers.children.executor import ISOLATED, is_isolated
from workers.children.spares import Spares
from workers.completion import BackendMetadata
from workers.repository import ModelVersion, ignored


@click.command()
@click.argument("repository", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of text.")
@click.option("--no-inspect", is_flag=True, help="Do not open model files: faster, and needs no framework.")
def command(repository: tuple[Path, ...], as_json: bool, no_inspect: bool) -> None:
    """Say for every model of REPOSITORY: served as is, served with a difference to Triton, or refused and why.

    Exits with 1 when a model is refused.

        penstock check /models --json
    """
    spares = Spares()
    for backend in ISOLATED:  # one template for all models of a backend
        spares.hold(backend)
    try:
        inspect = None if no_inspect else functools.partial(_inspect, spares)
        for line in ignored(repository):
            print(line, file=sys.stderr)
        verdicts = checking.check(repository, installed(), inspect)
    finally:
        for backend in ISOLATED:
            spares.release(backend)
    if as_json:
        print(orjson.dumps([verdict.as_json() for verdict in verdicts], option=orjson.OPT_INDENT_2).decode())
    else:
        for verdict in verdicts:
            versions = f" (versions {', '.join(map(str, verdict.versions))})" if verdict.versions else ""
            print(f"{verdict.model}: {verdict.status.value}{versions}")
            for line in (*verdict.reasons, *(f"note: {warning}" for warning in verdict.warnings)):
                print(f"    {line}")
        if not verdicts:
            print("no models found: a repository holds one folder per model, with one numbered folder per version")
    sys.exit(any(verdict.status is checking.Status.REFUSED for verdict in verdicts))


def _inspect(spares: Spares, version: ModelVersion) -> BackendMetadata | None:
    """As a worker would: what may crash is asked in a process of its own."""
    if not is_isolated(version.config):
        return load_backend(version.config.backend).inspect(version)
    child = spares.take(version.config.backend)
    try:
        return orders.inspect(child, version)[0]
    finally:
        child.kill()
        child.end(0.0)
