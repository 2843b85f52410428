"""When requests are due: endless, seeded sequences of seconds since the start of the load. No I/O, no clock.

Invariants: times never decrease; the same arguments give the same times; the mean rate is the requested one.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator


def constant(rate: float) -> Iterator[float]:
    """One request every 1/rate seconds, the first at 0.

    Raises:
        ValueError: the rate is not positive.
    """
    _check_positive("rate", rate)
    return (index / rate for index in itertools.count())


def poisson(rate: float, seed: int = 0) -> Iterator[float]:
    """Independent callers: exponential gaps with a mean of 1/rate seconds.

    Raises:
        ValueError: the rate is not positive.
    """
    _check_positive("rate", rate)
    gap = random.Random(seed).expovariate
    return itertools.accumulate(gap(rate) for _ in itertools.count())


def burst(rate: float, size: int, seed: int = 0) -> Iterator[float]:
    """Groups of `size` requests due at the same instant; the groups arrive as Poisson; `rate` counts requests.

    Raises:
        ValueError: rate or size is not positive.
    """
    _check_positive("size", size)
    return (time for time in poisson(rate / size, seed) for _ in range(size))


def ramp(start: float, end: float, over: float, seed: int = 0) -> Iterator[float]:
    """Poisson arrivals whose rate moves linearly from `start` to `end` requests/s in `over` seconds, then stays.

    Unit-rate arrivals are mapped through the inverse of the expected count start·t + (end - start)·t²/(2·over).

    Raises:
        ValueError: a rate is negative, `end` is 0 or `over` is not positive.
    """
    _check_positive("over", over)
    _check_positive("end", end)
    if not 0 <= start < math.inf:
        raise ValueError(f"start is {start}; it must be 0 or more requests per second")
    slope = (end - start) / over
    expected_in_ramp = (start + end) / 2 * over

    def time_of(expected: float) -> float:
        if expected >= expected_in_ramp:
            return over + (expected - expected_in_ramp) / end
        return 2 * expected / (start + math.sqrt(start * start + 2 * slope * expected))

    return (time_of(expected) for expected in poisson(1.0, seed))


PROCESSES = ("constant", "poisson", "burst", "ramp")
"""The names that `schedule` knows."""


def schedule(process: str, rate: float, duration: float, seed: int = 0) -> Iterator[float]:
    """The arrivals of a named process before `duration` seconds, with default shapes: bursts of 32, ramps from 0 to 2·rate.

    Raises:
        ValueError: the process is unknown, or its arguments are invalid.
    """
    if process == "constant":
        times = constant(rate)
    elif process == "poisson":
        times = poisson(rate, seed)
    elif process == "burst":
        times = burst(rate, 32, seed)
    elif process == "ramp":
        times = ramp(0.0, 2 * rate, duration, seed)
    else:
        raise ValueError(f"arrival process '{process}' is unknown; there are {', '.join(PROCESSES)}")
    return itertools.takewhile(lambda time: time < duration, times)


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}; it must be a positive, finite number")
