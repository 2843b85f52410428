"""Processes that end when the one that started them does, whatever they are doing."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_SET_DEATH_SIGNAL: Final = 1
"""PR_SET_PDEATHSIG of Linux."""
_PRCTL: Final = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


def die_with(parent: int) -> None:
    """End when the parent does, even while a model hangs; one that is gone already has left another in its place.

    Elsewhere than on Linux a process ends once it next looks at its line.
    """
    if _PRCTL is not None:
        _PRCTL(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
