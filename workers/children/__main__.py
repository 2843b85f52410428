"""`python -m workers.children FD PARENT`: one child of a worker, which hears its orders on that socket. Only a worker starts it."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import io
import logging
import os
import signal
import socket
import sys
import types
from types import FrameType
from typing import Any, Final

import structlog

import workers.backends.python  # noqa: F401  # most children run Python models; a spare has it ready
from workers.children.inside import Inside
from workers.children.line import Line

_SET_DEATH_SIGNAL: Final = 1
"""PR_SET_PDEATHSIG of Linux."""


def main() -> int:
    """Serve until the worker hangs up."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    _die_with(parent)
    os.set_inheritable(descriptor, False)
    faulthandler.enable()  # a crash then says in the worker's log where it was
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave_it_to_the_worker)
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(line_buffering=True, errors="backslashreplace")
    _log_plainly()
    _forget_ourselves()
    gc.freeze()
    Inside(Line(socket.socket(fileno=descriptor))).serve()
    sys.stdout.flush()
    return 0


def _die_with(parent: int) -> None:
    """End when the worker does, even while a model hangs; a worker that is gone already has left another parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def _leave_it_to_the_worker(number: int, frame: FrameType | None) -> None:
    """Whoever stops a whole group of processes stops the worker, too, which lets batches end first. Not SIG_IGN: programs that a
    model starts would inherit that."""


def _log_plainly() -> None:
    """Lines for the worker's log, which adds the time: the level in front, where `output` looks for it."""

    def line(_: Any, level: str, event: Any) -> str:
        text = str(event.pop("event", ""))
        more = " ".join(f"{key}={value!r}" for key, value in event.items())
        return f"<{logging.getLevelName(level.upper())}>{text} {more}".rstrip()

    structlog.configure(processors=[line], logger_factory=structlog.PrintLoggerFactory(sys.stderr))


def _forget_ourselves() -> None:
    """Leave a model the environment of a program of its own: the folder that this package was found in (see `process.environment`)
    leaves the path, and processes that a model starts, which import the main module, find an empty one."""
    home = os.environ.pop("PENSTOCK_CHILD_HOME", "")
    if home:
        sys.path.remove(home)
        _, _, rest = os.environ.pop("PYTHONPATH").partition(os.pathsep)
        if rest:
            os.environ["PYTHONPATH"] = rest
    sys.modules["__main__"] = types.ModuleType("__main__")


if __name__ == "__main__":
    sys.exit(main())
