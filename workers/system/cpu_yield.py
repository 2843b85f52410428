"""CPU time that a process which starts, or a thread that loads a model, leaves to those that serve on the same machine.

A worker that starts takes a second of CPU time and more, in which whoever serves beside it would have a core less. Callers wait
for their answers and nobody for that second, so it is taken where nobody else wants it:

- The thread asks Linux for long time slices (`sched_setattr`, since Linux 6.12). EEVDF, its scheduler, lets a task with a shorter
  slice interrupt one with a longer slice at once; both get the same share of the time.
- The session that the process leads asks for a tenth of a share, where Linux shares the CPU among sessions (autogroups, sched(7)).
  Unlike a thread's nice value anybody may take it back. Containers and services have shares of their own, which this leaves alone.

Neither is inherited by threads and processes that are started meanwhile. Elsewhere than on Linux, and where the administrator has
chosen another policy or a higher priority, nothing happens. Imports nothing heavy: it is called before everything else is imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_SLICE: Final = 100_000_000
"""Nanoseconds, the most that Linux takes."""
_RESET_ON_FORK: Final = 1
"""SCHED_FLAG_RESET_ON_FORK: threads and processes that this one starts have the usual slice."""
_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}.get(platform.machine()) if sys.platform == "linux" else None
"""The number of the system call; C libraries have no function for it until glibc 2.41."""
_AUTOGROUP: Final = Path("/proc/self/autogroup")
_LAST: Final = 10
"""The session's nice value: a tenth of another's share. With 19, a hundredth, a start on a busy machine would take minutes."""

_undo: Final[list[Callable[[], bool]]] = []
"""Take back what `begin` has changed; each is tried until it says that it was done."""


def begin() -> None:
    """Leave the CPU to others from now on: this thread and, where this process leads it, its session."""
    if not _set_slice(_SLICE):
        return
    _undo.append(lambda: _set_slice(0))
    nice = _session() if os.getsid(0) == os.getpid() else None
    if nice is not None and nice < _LAST and _set_session(_LAST):
        _undo.append(lambda: _set_session(nice))


def end() -> None:
    """Take part as others do again; from the thread that called `begin`. Where nobody has, nothing happens.

    To be repeated: of all changes to sessions on the machine Linux lets one pass in a tenth of a second.
    """
    _undo[:] = [undo for undo in _undo if not undo()]


@contextlib.contextmanager
def thread() -> Iterator[None]:
    """While the block runs, its thread leaves the CPU to others."""
    _set_slice(_SLICE)
    try:
        yield
    finally:
        _set_slice(0)


def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The function's result; while it runs, its thread leaves the CPU to others."""
    with thread():
        return function(*args, **kwargs)


def _set_slice(nanoseconds: int) -> bool:
    """Of this thread; 0 for the usual one. Older systems take no notice of it. False, and nothing is changed, where this is not
    Linux, or the administrator has chosen another policy or a higher priority.
    """
    if _SCHED_SETATTR is None:
        return False
    policy, nice = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, os.getpriority(os.PRIO_PROCESS, 0)
    if policy != os.SCHED_OTHER or nice < 0:
        return False
    # struct sched_attr: size, policy, flags, nice, priority; runtime (the slice), deadline, period.
    attributes = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, _RESET_ON_FORK, nice, 0, nanoseconds, 0, 0)
    ctypes.CDLL(None).syscall(_SCHED_SETATTR, 0, attributes, 0)
    return True


def _session() -> int | None:
    """The nice value of this process's session; None where there is none."""
    with contextlib.suppress(OSError):
        if found := re.search(r"nice (-?\d+)", _AUTOGROUP.read_text()):
            return int(found[1])
    return None


def _set_session(nice: int) -> bool:
    try:
        _AUTOGROUP.write_text(str(nice))
    except OSError:
        return False
    return True
