"""The load of a trial: a rate that moves linearly between points, and its seeded arrivals. Pure."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from collections.abc import Iterator

from loadtest.arrivals import poisson


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """A rate over time.

    Attributes:
        points: (seconds, requests per second), in order of time from 0 on; between two the rate moves linearly, and two at the same
            time are a step.

    Raises:
        ValueError: the points are not in order, or a rate is negative.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        times = [time for time, _ in self.points]
        if len(times) < 2 or times[0] != 0 or times != sorted(times):
            raise ValueError("a load needs at least two points, in order of time and from 0 on")
        if not all(0 <= rate < math.inf for _, rate in self.points):
            raise ValueError("a rate is a finite number of requests per second, and not negative")

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.points[-1][0]

    @property
    def peak(self) -> float:
        """Its highest rate."""
        return max(rate for _, rate in self.points)

    def rate(self, at: float) -> float:
        """Requests per second; 0 before and after."""
        if not 0 <= at < self.seconds:
            return 0.0
        right = bisect.bisect_right(self.points, at, key=lambda point: point[0])
        (start, low), (end, high) = self.points[right - 1], self.points[right]
        return low + (high - low) * (at - start) / (end - start)

    def arrivals(self, seed: int = 0) -> Iterator[float]:
        """When requests are due: Poisson, by thinning arrivals at the peak rate."""
        if not self.peak:
            return iter(())
        keep = poisson(1.0, seed + 1)  # its gaps are exponential: exp(-gap) is uniform
        last = 0.0

        def kept(at: float) -> bool:
            nonlocal last
            before, last = last, next(keep)
            return math.exp(before - last) * self.peak < self.rate(at)

        return filter(kept, itertools.takewhile(lambda at: at < self.seconds, poisson(self.peak, seed)))


@dataclasses.dataclass(frozen=True, slots=True)
class Phases:
    """The lengths of a trial's phases, in seconds: a ramp up, its top and the way down; nothing; a step; nothing.

    Attributes:
        peak: requests per second.
    """

    peak: float = 70.0
    up: float = 20.0
    top: float = 12.0
    gap: float = 12.0
    step: float = 30.0
    tail: float = 15.0

    def scaled(self, factor: float) -> Phases:
        """With all lengths times this."""
        lengths = {name: getattr(self, name) * factor for name in ("up", "top", "gap", "step", "tail")}
        return dataclasses.replace(self, **lengths)

    @property
    def ramp_ends(self) -> float:
        """When requests of the ramp are no longer due."""
        return 2 * self.up + self.top

    def load(self) -> Load:
        """0 to peak to 0 as a ramp, then as a step."""
        peak, begin, end = self.peak, self.ramp_ends + self.gap, self.ramp_ends + self.gap + self.step
        ramp: tuple[tuple[float, float], ...]
        ramp = ((0.0, 0.0), (self.up, peak), (self.up + self.top, peak), (self.ramp_ends, 0.0))
        if not self.up:
            ramp = ((0.0, 0.0),)
        return Load((*ramp, (begin, 0.0), (begin, peak), (end, peak), (end, 0.0), (end + self.tail, 0.0)))

    def shape(self, due: float) -> str:
        """To which shape a request belongs, by its due time."""
        return "ramp" if due < self.ramp_ends + self.gap / 2 else "step"
