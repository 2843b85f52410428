"""The first module of the command `penstock`. Ctrl-C ends the process at once and silently until the command installs its own
handler: nothing runs yet, and Python's default would raise in the middle of an import.
"""

import os
import signal
import sys
from typing import Final

_STDERR: Final = 2

signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    """The entry point."""
    open_missing_streams()
    from penstock import packages

    if problem := packages.hidden():
        sys.stderr.write(f"penstock: {problem}\n")
        sys.exit(3)
    from penstock.cli import main as run

    run()


def open_missing_streams() -> None:
    """Open /dev/null in place of standard streams that are closed, as by `>&-`: the next socket would get the descriptor, and what
    is printed."""
    while (lowest := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(lowest, True)
    os.close(lowest)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
