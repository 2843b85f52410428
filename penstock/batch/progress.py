"""How far a job is, how fast, and when it ends. Pure."""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Any, Final

SPAN: Final = 20.0
"""Seconds over which the rate is measured."""
_BAR: Final = 24


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """A job at one time.

    Attributes:
        read: lines that were read, the done ones of an earlier run included.
        answered, failed: lines that are written.
        in_flight: rows whose answers are awaited or wait for earlier ones.
        share: of the input that was read, 0 to 1; None if its size is unknown.
        rate: lines per second that are done, over the last `SPAN` seconds.
        eta: seconds to the end; None if unknown.
        seconds: since this process began.
    """

    read: int
    answered: int
    failed: int
    in_flight: int
    share: float | None
    rate: float
    eta: float | None
    seconds: float

    def document(self) -> dict[str, Any]:
        """For machines."""
        return {
            "read": self.read,
            "answered": self.answered,
            "failed": self.failed,
            "in_flight": self.in_flight,
            "share": None if self.share is None else round(self.share, 4),
            "rate": round(self.rate, 1),
            "eta_s": None if self.eta is None else round(self.eta, 1),
            "seconds": round(self.seconds, 2),
        }

    def bar(self, width: int) -> str:
        """For a terminal of so many columns."""
        done = self.answered + self.failed
        parts = [f"{done:,} lines", f"{self.rate:,.0f}/s", f"{self.failed:,} errors"]
        if self.eta is not None:
            parts.append(f"{_clock(self.eta)} left")
        text = "  ".join(parts)
        if self.share is None:
            return text[:width]
        filled = round(_BAR * self.share)
        return f"{'█' * filled}{'░' * (_BAR - filled)} {self.share:4.0%}  {text}"[:width]


def _clock(seconds: float) -> str:
    whole = math.ceil(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


class Meter:
    """Measures the rate.

    Args:
        now: when the process began, in seconds.
        done: lines that were done before.
    """

    def __init__(self, now: float, done: int) -> None:
        self._begun = now
        self._points: collections.deque[tuple[float, int]] = collections.deque([(now, done)])

    def measure(
        self, now: float, read: int, answered: int, failed: int, in_flight: int, share: float | None
    ) -> Progress:
        """The progress now; call it with a clock that does not go back."""
        done = answered + failed
        self._points.append((now, done))
        while len(self._points) > 2 and self._points[1][0] <= now - SPAN:
            self._points.popleft()
        since, before = self._points[0]
        rate = (done - before) / (now - since) if now > since else 0.0
        share_done = None if share is None else share * done / max(1, read)
        return Progress(
            read, answered, failed, in_flight, share_done, rate, _eta(rate, done, share_done), now - self._begun
        )


def _eta(rate: float, done: int, share: float | None) -> float | None:
    if share is None or rate <= 0 or share <= 0:
        return None
    return done * (1 - min(1.0, share)) / share / rate
