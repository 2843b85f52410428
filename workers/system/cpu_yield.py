"""Lets a starting process, or a thread that loads a model, yield the CPU to the processes that serve on the same machine.

A starting worker takes a second of CPU time or more, for which the processes beside it would have one core less. Callers wait for
answers but not for that second, so a start runs at low priority:

- Its thread asks Linux for long time slices (`sched_setattr`, since Linux 6.12). The scheduler, EEVDF, lets a task with a shorter
  slice preempt one with a longer slice at once; both get the same share of the time.
- The session that the process leads asks for a tenth of a share, where Linux shares the CPU among sessions (autogroups, sched(7)).
  Unlike a thread's nice value, this can be undone without privileges. Containers and services have their own shares, which stay.

Threads and processes started meanwhile inherit neither. On other systems, and where the administrator has chosen another policy or
a higher priority, nothing happens. This module imports nothing heavy: it is called before all other imports.
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
"""Nanoseconds, the most that Linux allows."""
_RESET_ON_FORK: Final = 1
"""SCHED_FLAG_RESET_ON_FORK: threads and processes that this one starts have the usual slice."""
_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}.get(platform.machine()) if sys.platform == "linux" else None
"""The number of the system call; glibc has no function for it before 2.41."""
_AUTOGROUP: Final = Path("/proc/self/autogroup")
_LAST: Final = 10
"""The session's nice value: a tenth of another's share. With 19, a hundredth, a start on a busy machine would take minutes."""

_undo: Final[list[Callable[[], bool]]] = []
"""Undo what `begin` has changed; each is tried until it returns True."""


def begin() -> None:
    """Yield from now on: this thread and, if this process leads it, its session."""
    if not _set_slice(_SLICE):
        return
    _undo.append(lambda: _set_slice(0))
    nice = _session() if os.getsid(0) == os.getpid() else None
    if nice is not None and nice < _LAST and _set_session(_LAST):
        _undo.append(lambda: _set_session(nice))


def end() -> None:
    """Stop yielding; call it from the thread that called `begin`. Without a `begin` nothing happens.

    Call it repeatedly: Linux accepts one change of a session per tenth of a second on the whole machine.
    """
    _undo[:] = [undo for undo in _undo if not undo()]


@contextlib.contextmanager
def thread() -> Iterator[None]:
    """This thread yields while the block runs."""
    _set_slice(_SLICE)
    try:
        yield
    finally:
        _set_slice(0)


def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The function's result; this thread yields while it runs."""
    with thread():
        return function(*args, **kwargs)


def _set_slice(nanoseconds: int) -> bool:
    """Set this thread's slice; 0 for the usual one. Older kernels ignore it. False, with nothing changed, where this is not Linux
    or the administrator has chosen another policy or a higher priority.
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
    """The nice value of this process's session; None without autogroups."""
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
