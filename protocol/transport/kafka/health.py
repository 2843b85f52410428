"""Whether what fails now and then fails for good, so that readiness says so. Pure: time is an argument."""

from __future__ import annotations

from typing import Final

LASTING: Final = 5.0
"""Seconds that a failure must last: rebalances and elections are over before that."""


class FetchHealth:
    """What fails, and since when without a success in between."""

    __slots__ = ("_since", "_why")

    def __init__(self) -> None:
        self._why = ""
        self._since = 0.0

    def failed(self, why: str, now: float) -> None:
        """It failed."""
        if not self._why:
            self._since = now
        self._why = why

    def succeeded(self) -> None:
        """It succeeded."""
        self._why = ""

    def lasting_failure(self, now: float) -> str:
        """Why it fails, once it has done so for some time; "" before, and where it does not."""
        return self._why if self._why and now - self._since >= LASTING else ""
