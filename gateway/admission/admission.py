"""How much may wait at once. Pure: a bounded number of calls and long polls per gateway, and a share of it per model version.

Bytes come from the gateway's budget, which others draw from, too. A model version whose calls are not answered may fill its share
and nothing more: it may hold `SHARE` times as many calls, and bytes, as are still free, so that something is free for the others
however many of them are stuck, and one alone can use three quarters.

Invariant: what was admitted or reserved leaves exactly once, so the counts return to zero when nothing waits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Final

from gateway.admission.budget import Budget
from protocol.errors import Exhausted

SHARE: Final = 3
_RETRY_LOW: Final = 1.0
_RETRY_HIGH: Final = 60.0
_SMOOTHING: Final = 0.3


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what waits: calls in all, bytes in all, calls per model version (0: its share of all), long polls."""

    calls: int
    size: int
    calls_per_model: int = 0
    polls: int = 1024


@dataclasses.dataclass(slots=True)
class _Waiting:
    """Of one model version: calls and their bytes."""

    calls: int = 0
    size: int = 0


class Admission:
    """Counts what waits and refuses what would be too much.

    Args:
        limits: how much may wait.
        budget: where bytes are drawn; one of `limits.size` bytes where none is given.

    Attributes:
        calls, size: admitted and not yet left; `size` includes bodies that are being read.
        polls: long polls that wait.
    """

    __slots__ = ("_budget", "_by_topic", "_left", "_limits", "_measured_at", "_rate", "calls", "polls", "size")

    def __init__(self, limits: Limits, budget: Budget | None = None) -> None:
        self._limits = limits
        self._budget = budget or Budget(limits.size)
        self._by_topic: dict[str, _Waiting] = {}
        self.calls = 0
        self.size = 0
        self.polls = 0
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
        limits, budget, free = self._limits, self._budget, self._limits.calls - self.calls
        if free <= 0:
            self.check()
        waiting = self._by_topic.get(topic)
        if waiting is None:
            waiting = self._by_topic[topic] = _Waiting()
        most, room = limits.calls_per_model or SHARE * free, SHARE * (budget.limit - budget.used)
        if waiting.calls >= most or waiting.size > room:
            raise self._over_share(waiting, most, room)
        self.reserve(size)
        waiting.calls += 1
        waiting.size += size
        self.calls += 1

    def _over_share(self, waiting: _Waiting, most: int, room: int) -> Exhausted:
        if waiting.calls >= most:
            text = f"{waiting.calls} calls for this model wait at this gateway; at most {most} may, while {self.calls} wait in all"
        else:
            text = (
                f"{waiting.size} bytes of calls for this model wait at this gateway; at most {room} may, "
                f"while {self._budget.used} bytes are held in all"
            )
        return self._exhausted(text, waiting.calls)

    def leave(self, topic: str, size: int) -> None:
        """The call was answered, or nobody waits for it any more."""
        self.calls -= 1
        self.release(size)
        self._left += 1
        waiting = self._by_topic[topic]
        waiting.calls -= 1
        waiting.size -= size

    def reserve(self, size: int) -> None:
        """Count bytes of a body that is being read.

        Raises:
            Exhausted: as `admit`.
        """
        budget = self._budget
        if not budget.take(size):
            raise self._exhausted(
                f"{budget.used} bytes of calls wait at this gateway; at most {budget.limit} may", self.calls
            )
        self.size += size

    def release(self, size: int) -> None:
        """The reserved bytes are free again."""
        self.size -= size
        self._budget.give(size)

    @property
    def room(self) -> int:
        """Bytes that can still be taken."""
        return self._budget.limit - self._budget.used

    @contextlib.contextmanager
    def poll(self) -> Iterator[None]:
        """Count a long poll for as long as it waits.

        Raises:
            Exhausted: too many wait already.
        """
        if self.polls >= self._limits.polls:
            raise self._exhausted(
                f"{self.polls} long polls wait at this gateway; at most {self._limits.polls} may", self.polls
            )
        self.polls += 1
        try:
            yield
        finally:
            self.polls -= 1

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
