"""Kills the processes of a run whose checker has ended: it waits for the end of its input, which only the checker holds open.

`python -m penstock.verify.fleet.watchdog TOKEN [FOLDER]`. It finds the processes of a run, and their descendants, by the run's
token in their environment: supervisors and children have other sessions and parents.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import psutil

VARIABLE: Final = "PENSTOCK_VERIFY_RUN"
"""In the environment of every process of a run."""
_ROUNDS: Final = 50


def start(token: str, folder: Path | None) -> subprocess.Popen[bytes]:
    """Start the watchdog of a run; it acts when its `stdin` is closed, by us or by our death.

    Args:
        token: of the run.
        folder: deleted afterwards; None to keep it.
    """
    arguments = [token, *([str(folder)] if folder is not None else [])]
    return subprocess.Popen(  # noqa: S603  # our own command
        [sys.executable, "-m", __name__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def of_run(token: str) -> Iterator[psutil.Process]:
    """The processes of a run."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(VARIABLE) == token and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def end(token: str) -> None:
    """SIGKILL until none is left."""
    for _ in range(_ROUNDS):
        left = list(of_run(token))
        if not left:
            return
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.1)


def main(arguments: Sequence[str]) -> None:
    """Wait until the checker has ended, then clean up."""
    sys.stdin.buffer.read()
    end(arguments[0])
    for folder in arguments[1:]:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
