"""How much may wait at once. Pure: a bounded number of calls and bytes per gateway, and of calls per model version.

Invariant: what was admitted or reserved leaves exactly once, so the counts return to zero when nothing waits.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Final

from protocol.errors import Exhausted

_RETRY_LOW: Final = 1.0
_RETRY_HIGH: Final = 60.0
_SMOOTHING: Final = 0.3


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what waits: calls in all, bytes in all, calls per model version."""

    calls: int
    size: int
    calls_per_model: int


class Admission:
    """Counts what waits and refuses what would be too much.

    Attributes:
        calls, size: admitted and not yet left; `size` includes bodies that are being read.
    """

    __slots__ = ("_by_topic", "_left", "_limits", "_measured_at", "_rate", "calls", "size")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_topic: dict[str, int] = {}
        self.calls = 0
        self.size = 0
        self._left = 0
        self._rate = 0.0
        self._measured_at: float | None = None

    def check(self) -> None:
        """Refuse early what `admit` would refuse whatever it is.

        Raises:
            Exhausted: as `admit`.
        """
        if self.calls >= self._limits.calls:
            raise self._exhausted(
                f"{self.calls} calls wait at this gateway; at most {self._limits.calls} may", self.calls
            )

    def admit(self, topic: str, size: int) -> None:
        """Count one call in.

        Args:
            topic: stands for the model version.
            size: bytes it holds.

        Raises:
            Exhausted: with the seconds after which those who wait now are answered, at the rate measured last.
        """
        waiting = self._by_topic.get(topic, 0)
        limits = self._limits
        self.check()
        if waiting >= limits.calls_per_model:
            raise self._exhausted(
                f"{waiting} calls for this model wait at this gateway; at most {limits.calls_per_model} may", waiting
            )
        self.reserve(size)
        self._by_topic[topic] = waiting + 1
        self.calls += 1

    def leave(self, topic: str, size: int) -> None:
        """The call was answered, or nobody waits for it any more."""
        self.calls -= 1
        self.size -= size
        self._left += 1
        waiting = self._by_topic[topic] - 1
        if waiting:
            self._by_topic[topic] = waiting
        else:
            del self._by_topic[topic]

    def reserve(self, size: int) -> None:
        """Count bytes of a body that is being read.

        Raises:
            Exhausted: as `admit`.
        """
        if self.size + size > self._limits.size:
            raise self._exhausted(
                f"{self.size} bytes of calls wait at this gateway; at most {self._limits.size} may", self.calls
            )
        self.size += size

    def release(self, size: int) -> None:
        """The reserved bytes are free again."""
        self.size -= size

    def measure(self, now: float) -> None:
        """Take the rate at which calls left since the last time; call it about once a second."""
        if self._measured_at is not None and now > self._measured_at:
            rate = self._left / (now - self._measured_at)
            self._rate = rate if not self._rate else self._rate + _SMOOTHING * (rate - self._rate)
        self._measured_at = now
        self._left = 0

    def retry_after(self, waiting: int) -> float:
        """Seconds until `waiting` calls are answered at the measured rate, between 1 and 60, whole."""
        if self._rate <= 0:
            return _RETRY_LOW if self._measured_at is None else _RETRY_HIGH
        return float(min(max(math.ceil(waiting / self._rate), _RETRY_LOW), _RETRY_HIGH))

    def _exhausted(self, message: str, waiting: int) -> Exhausted:
        return Exhausted(f"Exceeds maximum queue size: {message}", retry_after=self.retry_after(waiting))
