"""How many workers are wanted over time: up at once, down only after a window. Pure: state machines with time as an argument."""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Final

from protocol.errors import InvalidArgument

MOST: Final = 10_000
"""Largest number of workers that is ever wanted of one group."""
SLACK: Final = 0.05
"""Part of a worker that is not worth another one."""
TOLERANCE: Final = 0.1
"""The horizontal pod autoscaler's default: it ignores a metric that differs from its target by at most this share."""
_SMOOTHING: Final = 0.5
MAX_COLD_START: Final = 3600.0


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """What a group of workers is scaled for. Times are in seconds.

    Attributes:
        target: within which the backlog of the interactive lane is to be drained.
        batch_target: the same of the batch lane.
        least: workers that are always wanted.
        most: workers that are wanted at most.
        window: the number falls to what its highest moment of this time needed.
        cold_start: until a new worker is ready, while none was measured.

    Raises:
        InvalidArgument: naming the value that cannot be.
    """

    target: float = 10.0
    batch_target: float = 600.0
    least: int = 0
    most: int = MOST
    window: float = 120.0
    cold_start: float = 60.0

    def __post_init__(self) -> None:
        for name, lowest in (("target", 0.1), ("batch_target", 0.1), ("window", 0.0), ("cold_start", 0.0)):
            if not lowest <= getattr(self, name) <= 86_400.0:
                raise InvalidArgument(f"{name} is {getattr(self, name)}; it is {lowest:g} to 86400 seconds")
        if not 0 <= self.least <= self.most <= MOST:
            raise InvalidArgument(
                f"the least ({self.least}) and most ({self.most}) workers must be ordered, and at most {MOST}"
            )


class WantedWorkers:
    """The number of workers that a group is to have.

    Args:
        policy: of the group.

    Attributes:
        number: as last decided.
    """

    __slots__ = ("_pending_since", "_policy", "_recent", "number")

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._recent: collections.deque[tuple[float, int]] = collections.deque()
        self._pending_since: float | None = None
        self.number = policy.least

    def begin(self, now: float, ready: int) -> None:
        """Take over a group that has ready workers: they were wanted until now."""
        self._note(now, min(ready, self._policy.most))
        self.number = max(self.number, min(ready, self._policy.most))

    def decide(self, now: float, need: float, busy: bool, ready: int) -> int:
        """The number of wanted workers now.

        Args:
            now: never goes back.
            need: workers that the work needs, as a fraction.
            busy: whether a request is unanswered: then at least one worker is wanted.
            ready: workers that serve now.
        """
        policy = self._policy
        asked = min(math.ceil(need - SLACK), policy.most) if math.isfinite(need) else policy.most
        self._note(now, min(max(asked, int(busy), policy.least), policy.most))
        self.number = self._recent[0][1]
        if self.number <= ready:
            self._pending_since = None
        elif self._pending_since is None:
            self._pending_since = now
        return self.number

    def horizon(self, now: float, cold_start: float) -> float:
        """Seconds until the workers that are wanted and not ready should be ready; the whole cold start if there are none."""
        if self._pending_since is None:
            return cold_start
        waited = now - self._pending_since
        return cold_start - waited if waited < cold_start else cold_start

    def _note(self, now: float, number: int) -> None:
        """Keep the numbers of the window that no later one has reached: descending, so at most `MOST` + 1."""
        recent = self._recent
        while recent and recent[0][0] < now - self._policy.window:
            recent.popleft()
        while recent and recent[-1][1] <= number:
            recent.pop()
        recent.append((now, number))


class ColdStart:
    """How long workers take to be ready, from the moment when they are wanted.

    Args:
        expected: seconds, while nothing was measured.

    Attributes:
        seconds: as measured, smoothed; else as expected.
        measured: whether a start was measured.
    """

    __slots__ = ("_before", "_since", "measured", "seconds")

    def __init__(self, expected: float) -> None:
        self.seconds = expected
        self.measured = False
        self._since: float | None = None
        self._before = 0

    def observe(self, now: float, wanted: int, ready: int) -> None:
        """Note how many workers are wanted and ready."""
        if self._since is not None and ready > self._before:
            self._measure(now - self._since)
            self._since = None
        if wanted <= ready:
            self._since = None
        elif self._since is None:
            self._since = now
        self._before = ready

    def _measure(self, seconds: float) -> None:
        seconds = min(max(0.0, seconds), MAX_COLD_START)
        self.seconds = self.seconds + _SMOOTHING * (seconds - self.seconds) if self.measured else seconds
        self.measured = True


def reported(wanted: int, ready: int, tolerance: float = TOLERANCE) -> int:
    """The value to report to a horizontal pod autoscaler so that it starts the wanted workers.

    It ignores a value within its tolerance of the replicas that it has: with 20 replicas, 21 and 22 would start nothing. Then the
    lowest value that it does not ignore is reported. A value that is too low by as much is left: a tenth too many workers is cheap.

    Args:
        wanted: workers.
        ready: workers that serve now.
        tolerance: of the autoscaler.
    """
    if ready < wanted <= ready * (1 + tolerance):
        return math.floor(ready * (1 + tolerance)) + 1
    return wanted
