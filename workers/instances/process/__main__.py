"""`python -m workers.instances.process FD PARENT FRAMEWORK`: the fork server of a worker's children.

FRAMEWORK is a module to import before that, or "". Each copy becomes a child. Only a worker starts it (`template`).
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
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

import workers.backends.python  # noqa: F401  # most children run Python models
from workers.instances.process.channel import Line
from workers.instances.process.child_main import Inside
from workers.instances.process.forking import Copies
from workers.system import cpu_yield
from workers.system.parent_death import die_with

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_LARGEST_IN_HEAP: Final = 32 * 1024 * 1024
"""Bytes; the most that the allocator allows."""
_KEPT: Final = 128 * 1024 * 1024
"""Bytes of free memory that a child may hold on to."""


def main() -> int:
    """Serve, as the template or as one of its copies, until the worker hangs up."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    die_with(parent, signal.SIGTERM)
    cpu_yield.begin()  # for good: this process does nothing that anybody waits for but copying itself
    _forget_ourselves()
    gc.disable()
    if framework := sys.argv[3]:
        with contextlib.suppress(Exception):  # a copy whose model needs it meets the error again, and tells it
            importlib.import_module(framework)
    gc.freeze()
    gc.enable()
    born = Copies(socket.socket(fileno=descriptor), parent).serve()
    if born is not None:
        _begin()
        Inside(Line(born)).serve()
        sys.stdout.flush()
        return 0
    os._exit(0)  # nothing is left to put away, and the worker waits


def _begin() -> None:
    """What a copy sets up for the model that it is going to run."""
    cpu_yield.begin()  # until the model is loaded; what the template has to take back is taken back here, too, without effect
    faulthandler.enable()  # a crash then says in the worker's log where it was
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave_it_to_the_worker)
    sys.stdout = sys.__stdout__ = _by_lines(1)  # type: ignore[misc]  # the template's own ones led elsewhere
    sys.stderr = sys.__stderr__ = _by_lines(2)  # type: ignore[misc]
    _log_plainly()
    _keep_memory()


def _keep_memory() -> None:
    """Let what one batch frees serve the next one. GNU's allocator would return arrays of some MB to the system after every batch,
    and page faults to get them back took ten times as long as everything else that a child does with a batch of 5 MB."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_IN_HEAP)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT)


def _by_lines(descriptor: int) -> io.TextIOWrapper:
    raw = io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)


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
