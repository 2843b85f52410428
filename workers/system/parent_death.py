"""Makes processes die with their parent, whatever they are doing, and finds the orphans that they leave."""

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
    """Die with the parent, even while a model hangs; exit now if the parent is already gone.

    On systems other than Linux a process exits once it next reads from its channel.

    Args:
        parent: number of the process that started this one.
        number: the signal that this process gets when the parent dies.
    """
    if _PRCTL is not None:
        _PRCTL(_SET_DEATH_SIGNAL, number)
    if os.getppid() != parent:
        os._exit(0)


def adopt_orphans() -> None:
    """Become the parent of every orphan below this process, so that none escapes by detaching itself.

    Does nothing on systems other than Linux.
    """
    if _PRCTL is not None:
        _PRCTL(_SET_SUBREAPER, 1)


def children() -> list[int]:
    """The numbers of this process's children, including adopted ones and zombies.

    For a process with one thread; empty on systems other than Linux.
    """
    own = os.getpid()
    try:
        return [int(number) for number in Path(f"/proc/self/task/{own}/children").read_text().split()]
    except OSError:  # a kernel built without these files
        return [pid for pid, parent in _processes() if parent == own]


def _processes() -> Iterator[tuple[int, int]]:
    """(number, parent's number) of every process."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            yield int(folder.name), int((folder / "stat").read_text().rpartition(")")[2].split()[1])
