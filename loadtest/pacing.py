"""An alarm for an event loop accurate to about 50 µs; the loop's own timers are accurate to 1 ms.

Both asyncio's selector and uvloop wait in whole milliseconds. On Linux a timerfd is added to the loop instead; elsewhere the loop's
timer is used, and the report's lateness shows what that costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
from collections.abc import Callable
from typing import Final

_CLOCK_MONOTONIC: Final = 1
_NONBLOCK_CLOEXEC: Final = 0o2004000
_Itimerspec: Final = ctypes.c_long * 4  # interval s, ns; value s, ns


class Alarm:
    """Calls back once, `delay` seconds after each `set`; a later `set` replaces an earlier one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._is_set = False
        self._fd = _timerfd()
        if self._fd is not None:
            loop.add_reader(self._fd, self._fired)

    def set(self, delay: float) -> None:
        """Ring after `delay` seconds; 0 or less rings in the loop's next turn."""
        self._is_set = True
        if self._fd is None or _libc is None:
            if self._handle is not None:
                self._handle.cancel()
            self._handle = self._loop.call_later(max(0.0, delay), self._callback)
            return
        nanoseconds = max(1, int(delay * 1e9))  # 0 would disarm it
        spec = _Itimerspec(0, 0, nanoseconds // 1_000_000_000, nanoseconds % 1_000_000_000)
        if _libc.timerfd_settime(self._fd, 0, ctypes.byref(spec), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        """Never ring again."""
        if self._handle is not None:
            self._handle.cancel()
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    def _fired(self) -> None:
        self._is_set = False
        self._callback()
        if self._fd is not None and not self._is_set:  # setting it again has cleared it already
            with contextlib.suppress(BlockingIOError):
                os.read(self._fd, 8)


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _timerfd() -> int | None:
    if _libc is None:
        return None
    fd = int(_libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC))
    return fd if fd >= 0 else None
