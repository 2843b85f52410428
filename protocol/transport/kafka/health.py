"""Whether fetching has failed long enough for readiness to report it. Pure: time is an argument."""

from __future__ import annotations

from typing import Final

LASTING: Final = 5.0
"""Seconds that a failure must last; rebalances and elections take less."""


class FetchHealth:
    """The newest error, and since when there has been no success."""

    __slots__ = ("_since", "_why")

    def __init__(self) -> None:
        self._why = ""
        self._since = 0.0

    def failed(self, why: str, now: float) -> None:
        """Fetching failed."""
        if not self._why:
            self._since = now
        self._why = why

    def succeeded(self) -> None:
        """Fetching succeeded."""
        self._why = ""

    def lasting_failure(self, now: float) -> str:
        """The newest error, once fetching has failed for `LASTING` seconds; "" otherwise."""
        return self._why if self._why and now - self._since >= LASTING else ""
