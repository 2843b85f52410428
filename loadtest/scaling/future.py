"""The policy that knows the future: workers start so early that they are ready when they are needed, and not earlier. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Final

from gateway.scaling.drain import UTILISATION

STEP: Final = 0.1
"""Seconds between two moments that are looked at."""


@dataclasses.dataclass(frozen=True, slots=True)
class ColdStarts:
    """How long workers take to be ready, by how many start together: they share the machine.

    Attributes:
        one: seconds, if one starts alone.
        several: seconds, if `count` start together; between the two it grows linearly.
    """

    one: float
    several: float
    count: int

    def seconds(self, number: int) -> float:
        """If so many start together."""
        if self.count <= 1:
            return self.one
        return self.one + (self.several - self.one) * max(0, number - 1) / (self.count - 1)


def needed(rate: float, speed: float, most: int) -> int:
    """Workers for a rate: each is busy for at most `UTILISATION` of its time.

    Args:
        rate: rows per second that arrive.
        speed: rows per second of one worker.
        most: workers.
    """
    return min(most, math.ceil(rate / (speed * UTILISATION) - 1e-9))


def plan(
    rate: Callable[[float], float], seconds: float, speed: float, most: int, cold: ColdStarts
) -> list[tuple[float, int]]:
    """From when on how many workers are to exist, ready or not: changes in order of time. Times may be negative.

    Workers that would be stopped and started again within a cold start stay.

    Args:
        rate: rows per second, by time.
        seconds: until which it is looked at.
        speed: rows per second of one worker.
        most: workers.
        cold: their cold starts.
    """
    count = math.ceil(seconds / STEP) + 1
    use = [needed(rate(index * STEP), speed, most) for index in range(count)]
    lead = math.ceil(cold.seconds(most) / STEP)
    exist = _early(use, lead, cold)
    changes: list[tuple[float, int]] = []
    for index, number in enumerate(exist):
        if number != (changes[-1][1] if changes else 0):
            changes.append(((index - lead) * STEP, number))
    return changes


def _early(use: Sequence[int], lead: int, cold: ColdStarts) -> list[int]:
    """The number of existing workers, from `lead` steps before the first use on."""
    exist = [0] * (len(use) + lead)
    before = 0
    for index, number in enumerate(use):
        early = math.ceil(cold.seconds(number - before) / STEP) if number > before else math.ceil(cold.one / STEP)
        for at in range(index + lead - early, index + lead + 1):
            exist[at] = max(exist[at], number)
        before = number
    return exist


def at(changes: Sequence[tuple[float, int]], now: float) -> int:
    """How many workers the plan has at this time."""
    number = 0
    for time, wanted in changes:
        if time > now:
            break
        number = wanted
    return number
