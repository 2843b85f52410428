"""`penstock check`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import orjson

from workers import checking
from workers.backends import installed, load_backend
from workers.repository import ModelVersion


@click.command()
@click.argument("repository", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of text.")
@click.option("--no-inspect", is_flag=True, help="Do not open model files: faster, and needs no framework.")
def command(repository: tuple[Path, ...], as_json: bool, no_inspect: bool) -> None:
    """Say for every model of REPOSITORY: served as is, served with a difference to Triton, or refused and why.

    Exits with 1 when a model is refused.

        penstock check /models --json
    """
    verdicts = checking.check(repository, installed(), None if no_inspect else _inspect)
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


def _inspect(version: ModelVersion) -> Any:
    return load_backend(version.config.backend).inspect(version)
