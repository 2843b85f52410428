"""Which failed call is made again, and when. Time and luck are arguments. Pure.

A call is made again if the server has not run it: nothing was sent, or the gateway refused it for now. After a connection broke in
mid-call it is made again only if a repetition does no harm: the call is keyed, or only reads.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from protocol.errors import Code, FleetError, Unavailable

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0
LONGEST_WAIT: Final = 60.0
"""Seconds of a `Retry-After` that are waited for; a longer one is the caller's decision."""
_FOR_NOW: Final = frozenset({Code.EXHAUSTED, Code.UNAVAILABLE})


class Unreached(Unavailable):
    """There is no answer.

    Attributes:
        sent: whether the server may have got the request.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


@dataclasses.dataclass(frozen=True, slots=True)
class Attempts:
    """The attempts of one call.

    Attributes:
        retries: attempts after the first.
        repeatable: whether running the call twice does no harm.
        until: when the caller's time is over; None for never. No attempt begins after it.
    """

    retries: int
    repeatable: bool
    until: float | None = None

    def pause(self, error: BaseException, attempt: int, now: float, luck: float) -> float | None:
        """Seconds until the next attempt; None to give up.

        Args:
            error: of the last attempt.
            attempt: its number, from 1.
            now: on the clock of `until`.
            luck: 0 to 1; spreads callers that failed together.
        """
        if attempt > self.retries or not self._may_repeat(error):
            return None
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(attempt - 1, 10)) * (0.5 + luck / 2)
        asked = error.retry_after if isinstance(error, FleetError) else None
        if asked is not None:
            if asked > LONGEST_WAIT:
                return None
            pause += asked
        return pause if self.until is None or now + pause < self.until else None

    def _may_repeat(self, error: BaseException) -> bool:
        if isinstance(error, Unreached):
            return self.repeatable or not error.sent
        return isinstance(error, FleetError) and error.code in _FOR_NOW
