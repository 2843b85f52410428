"""When a peer's frames are an attack: too many of them advance no call, or reset one. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.rpc.http2.frames import ErrorCode, Fault

PERIOD: Final = 10.0
UNHEEDED: Final = 1000
"""Frames within `PERIOD` seconds that ask for something and advance no call: more is an attack."""
RESETS: Final = 1000
"""Calls that a peer resets within `PERIOD` seconds: more is an attack (CVE-2023-44487)."""


class FloodLimit:
    """Counts the frames of one peer that cost more than they bring.

    Args:
        clock: in seconds; read when a count is reached.

    Attributes:
        unheeded: frames since a call was last answered.
    """

    __slots__ = ("_clock", "_resets", "_since", "unheeded")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._resets = self.unheeded = 0

    def count(self) -> None:
        """Count a frame that advances no call.

        Raises:
            Fault: there are too many.
        """
        self.unheeded += 1
        if self.unheeded > UNHEEDED and self._is_quick():
            raise Fault(ErrorCode.ENHANCE_YOUR_CALM, "too many frames advance no call")

    def count_reset(self) -> None:
        """Count a call that its peer resets.

        Raises:
            Fault: there are too many.
        """
        self._resets += 1
        if self._resets > RESETS and self._is_quick():
            raise Fault(ErrorCode.ENHANCE_YOUR_CALM, "too many calls are reset")

    def _is_quick(self) -> bool:
        """Whether a count was reached within `PERIOD`; after it, counting begins again."""
        now, since = self._clock(), self._since
        self._since = now
        self._resets = self.unheeded = 0
        return now - since < PERIOD
