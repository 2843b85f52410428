"""How many replicas KEDA and the horizontal pod autoscaler would have, and which are stopped first. Pure.

Kubernetes' arithmetic: the metric divided by its target says how many replicas it asks for; a difference of a tenth is ignored; the
number falls only to the highest that was asked for within a window. KEDA takes the first step from zero and the last one to it.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Behaviour:
    """Settings of one autoscaler. Times are in seconds.

    Attributes:
        least, most: replicas.
        window: the number falls to the highest that was asked for in this time.
        cooldown: without activity until the last replica is stopped.
        tolerance: a metric that differs from its target by at most this share changes nothing.

    Raises:
        ValueError: the bounds are not ordered.
    """

    least: int = 0
    most: int = 6
    window: float = 5.0
    cooldown: float = 5.0
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most:
            raise ValueError(f"least ({self.least}) and most ({self.most}) replicas must be ordered and not negative")


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """What a signal says.

    Attributes:
        active: whether there is anything to do.
        load: the metric, summed over replicas and divided by its target: so many replicas would meet the target exactly.
    """

    active: bool
    load: float


class Autoscaler:
    """Follows a signal.

    Args:
        behaviour: its settings.
    """

    __slots__ = ("_active_at", "_asked", "_behaviour")

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._asked: collections.deque[tuple[float, int]] = collections.deque()
        self._active_at = -math.inf

    def decide(self, now: float, reading: Reading | None, replicas: int) -> int:
        """How many replicas to have.

        Args:
            now: seconds; never goes back.
            reading: None if the signal says nothing: then nothing changes within the bounds.
            replicas: that there are, ready or not.
        """
        behaviour = self._behaviour
        if reading is None:
            return self._bounded(replicas)
        if reading.active:
            self._active_at = now
        if replicas == 0:  # KEDA starts the first; the autoscaler sees it and goes on from there
            return self._bounded(1 if reading.active else 0)
        if not reading.active and now - self._active_at >= behaviour.cooldown:
            return self._bounded(0)
        return self._bounded(max(1, self._stabilised(now, self._recommended(reading.load, replicas), replicas)))

    def _recommended(self, load: float, replicas: int) -> int:
        if not math.isfinite(load):
            return self._behaviour.most
        if abs(load / replicas - 1.0) <= self._behaviour.tolerance + 1e-9:
            return replicas
        return self._bounded(math.ceil(load - 1e-9))

    def _stabilised(self, now: float, number: int, replicas: int) -> int:
        """Up at once; down to the highest number of the window."""
        asked = self._asked
        while asked and asked[0][0] < now - self._behaviour.window:
            asked.popleft()
        while asked and asked[-1][1] <= number:
            asked.pop()
        asked.append((now, number))
        return max(number, min(replicas, asked[0][1]))

    def _bounded(self, number: int) -> int:
        return min(max(number, self._behaviour.least), self._behaviour.most)


@dataclasses.dataclass(frozen=True, slots=True)
class Replica:
    """One replica that is not being stopped: its name, when it was started, and whether it is ready."""

    name: str
    started: float
    ready: bool


def surplus(replicas: Sequence[Replica], wanted: int) -> list[str]:
    """The names of those to stop, as a ReplicaSet chooses: first those that are not ready, then the youngest."""
    order = sorted(replicas, key=lambda replica: (replica.ready, -replica.started))
    return [replica.name for replica in order[: max(0, len(order) - wanted)]]
