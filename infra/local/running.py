"""What commands share that run servers until Ctrl-C: a folder for their data, a watch over them, errors as messages."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import click

from infra.local.process import LocalServer
from protocol.errors import FleetError, Unavailable


@contextlib.contextmanager
def folder_until_interrupted(data_dir: Path | None, prefix: str = "penstock-") -> Iterator[Path]:
    """A data folder, temporary if none is named; Ctrl-C and SIGTERM end the `with` in order."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.ExitStack() as stack, as_message(), contextlib.suppress(KeyboardInterrupt):
        yield data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))


def watch(started: Sequence[LocalServer]) -> NoReturn:
    """Raises when one of them ends on its own."""
    while True:
        for server in started:
            if not server.running:
                raise Unavailable(f"{server.name} ended; last lines of {server.log}:\n{server.log_tail()}")
        time.sleep(0.5)


@contextlib.contextmanager
def as_message() -> Iterator[None]:
    """Ends the command with the error's message instead of its stack."""
    try:
        yield
    except FleetError as error:
        raise click.ClickException(error.message) from error
