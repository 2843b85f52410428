"""How many calls and long polls may wait at once, with how many bytes, per gateway and per model version. Pure.

Bytes are drawn from the gateway's budget, which others share. One model version may hold `SHARE` times as many calls, and bytes, as
are still free. So a version whose calls are stuck can take at most three quarters, and room always remains for the others.

Invariant: each call and each reservation leaves exactly once, so the counts return to zero when nothing waits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Final

from gateway.admission.budget import BATCH, Budget, Budgets
from protocol.errors import Exhausted
from protocol.messages import Lane

SHARE: Final = 3
_RETRY_LOW: Final = 1.0
_RETRY_HIGH: Final = 60.0
_SMOOTHING: Final = 0.3
_BATCH_LANE: Final = Lane.BATCH


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Limits: calls in all, bytes in all, calls per model version (0 for its share), long polls.

    Attributes:
        called: what the texts of errors call the calls.
    """

    calls: int
    size: int
    calls_per_model: int = 0
    polls: int = 1024
    called: str = "calls"

    def of_batch_lane(self) -> Limits:
        """The limits of the batch lane, counted apart: a quarter of each of these."""
        return dataclasses.replace(
            self, calls=max(1, self.calls // BATCH), size=self.size // BATCH, polls=0, called="calls in the batch lane"
        )


@dataclasses.dataclass(slots=True)
class _Waiting:
    """Waiting calls of one model version, and their bytes."""

    calls: int = 0
    size: int = 0


class Admission:
    """Counts waiting calls and refuses those over a limit.

    Args:
        limits: on waiting calls.
        budget: bytes are drawn from it; by default one of `limits.size` bytes.

    Attributes:
        calls, size: waiting now; `size` includes bodies that are being read.
        polls: waiting long polls.
        expected: seconds until the requests of a topic are answered, of which so many wait here; None if that is not known.
    """

    __slots__ = (
        "_budget", "_by_topic", "_left", "_limits", "_measured_at", "_rate", "calls", "expected", "polls", "size",
    )  # fmt: skip

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
        self.expected: Callable[[str, int], float | None] = lambda topic, waiting: None

    def check(self) -> None:
        """Refuse early, before the model and the size of the call are known.

        Raises:
            Exhausted: as `admit`.
        """
        if self.calls >= self._limits.calls:
            raise self._exhausted(
                f"{self.calls} {self._limits.called} wait at this gateway; at most {self._limits.calls} may", self.calls
            )

    def admit(self, topic: str, size: int) -> None:
        """Count a call in.

        Args:
            topic: of the model version.
            size: bytes that the call holds.

        Raises:
            Exhausted: a limit is reached; `retry_after` is the time to answer those that now wait.
        """
        limits, budget, free = self._limits, self._budget, self._limits.calls - self.calls
        if free <= 0:
            self.check()
        waiting = self._by_topic.get(topic)
        if waiting is None:
            waiting = self._by_topic[topic] = _Waiting()
        most, room = limits.calls_per_model or SHARE * free, SHARE * (budget.limit - budget.used)
        if waiting.calls >= most or waiting.size > room:
            raise self._over_share(topic, waiting, most, room)
        self.reserve(size)
        waiting.calls += 1
        waiting.size += size
        self.calls += 1

    def _over_share(self, topic: str, waiting: _Waiting, most: int, room: int) -> Exhausted:
        called = self._limits.called
        if waiting.calls >= most:
            text = (
                f"{waiting.calls} {called} for this model wait at this gateway; at most {most} may, "
                f"while {self.calls} wait in all"
            )
        else:
            text = (
                f"{waiting.size} bytes of {called} for this model wait at this gateway; at most {room} may, "
                f"while {self._budget.used} bytes are held in all"
            )
        return self._exhausted(text, waiting.calls, topic)

    def leave(self, topic: str, size: int) -> None:
        """Count a call out: it was answered or abandoned."""
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
                f"{budget.used} bytes of {self._limits.called} wait at this gateway; at most {budget.limit} may",
                self.calls,
            )
        self.size += size

    def release(self, size: int) -> None:
        """Return reserved bytes."""
        self.size -= size
        self._budget.give(size)

    @property
    def room(self) -> int:
        """Free bytes."""
        return self._budget.limit - self._budget.used

    @contextlib.contextmanager
    def poll(self) -> Iterator[None]:
        """Count a long poll while it waits.

        Raises:
            Exhausted: too many wait.
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
        """Update the rate at which calls leave; call it about once a second."""
        if self._measured_at is not None and now > self._measured_at:
            rate = self._left / (now - self._measured_at)
            self._rate = rate if not self._rate else self._rate + _SMOOTHING * (rate - self._rate)
        self._measured_at = now
        self._left = 0

    def retry_after(self, waiting: int, topic: str = "") -> float:
        """Whole seconds, 1 to 60, until `waiting` calls are answered: as expected of the topic, else at the measured rate."""
        seconds = self.expected(topic, waiting) if topic else None
        if seconds is not None:
            return float(min(max(math.ceil(seconds), _RETRY_LOW), _RETRY_HIGH))
        if self._rate <= 0:
            return _RETRY_LOW if self._measured_at is None else _RETRY_HIGH
        return float(min(max(math.ceil(waiting / self._rate), _RETRY_LOW), _RETRY_HIGH))

    def _exhausted(self, message: str, waiting: int, topic: str = "") -> Exhausted:
        return Exhausted(f"Exceeds maximum queue size: {message}", retry_after=self.retry_after(waiting, topic))


@dataclasses.dataclass(frozen=True, slots=True)
class Admissions:
    """The limits of each lane, counted apart: calls in the batch lane never take the room of interactive ones."""

    interactive: Admission
    batch: Admission

    @classmethod
    def under(cls, limits: Limits, budgets: Budgets) -> Admissions:
        """Both lanes' limits.

        Args:
            limits: of interactive calls; the batch lane has a quarter of them.
        """
        return cls(Admission(limits, budgets.whole), Admission(limits.of_batch_lane(), budgets.batch))

    def of(self, lane: Lane) -> Admission:
        """The limits of this lane."""
        return self.batch if lane is _BATCH_LANE else self.interactive

    def measure(self, now: float) -> None:
        """See `Admission.measure`."""
        self.interactive.measure(now)
        self.batch.measure(now)
