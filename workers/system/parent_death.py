"""Processes that end when the one that started them does, whatever they are doing, and the finding of those that they left."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_SET_DEATH_SIGNAL: Final = 1
"""PR_SET_PDEATHSIG of Linux."""
_SET_SUBREAPER: Final = 36
"""PR_SET_CHILD_SUBREAPER of Linux."""
_PRCTL: Final = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


def die_with(parent: int, number: int = signal.SIGKILL) -> None:
    """End when the parent does, even while a model hangs; one that is gone already has left another in its place.

    Elsewhere than on Linux a process ends once it next looks at its line.

    Args:
        parent: the number of the process that started this one.
        number: of the signal that tells the parent's death.
    """
    if _PRCTL is not None:
        _PRCTL(_SET_DEATH_SIGNAL, number)
    if os.getppid() != parent:
        os._exit(0)


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent ends, so that none gets out of sight by detaching itself.

    Elsewhere than on Linux nothing happens.
    """
    if _PRCTL is not None:
        _PRCTL(_SET_SUBREAPER, 1)


def children() -> list[int]:
    """The numbers of this process's children, adopted ones included, and of those that have ended and were not waited for.

    For a process with one thread; empty elsewhere than on Linux.
    """
    own = os.getpid()
    try:
        return [int(number) for number in Path(f"/proc/self/task/{own}/children").read_text().split()]
    except OSError:  # a kernel that was built without these files
        return [pid for pid, parent in _processes() if parent == own]


def _processes() -> Iterator[tuple[int, int]]:
    """The number of every process and its parent's."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            yield int(folder.name), int((folder / "stat").read_text().rpartition(")")[2].split()[1])
