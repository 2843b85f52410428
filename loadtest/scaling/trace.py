"""A day of a hundred models, synthetic and seeded: some follow the sun, some come in bursts, most are hardly ever called. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[Any]

DAY: Final = 86_400.0
TICK: Final = 5.0
"""Seconds; what arrives within one arrives at its begin."""
KINDS: Final = ("diurnal", "bursts", "idle")
_SHARES: Final = (0.4, 0.3, 0.3)


@dataclasses.dataclass(frozen=True, slots=True)
class ModelTrace:
    """One model's day.

    Attributes:
        kind: of `KINDS`.
        speed: rows per second of one worker.
        cold: seconds until a worker is ready.
        rows: that arrive, by tick; ticks without any are left out.
    """

    kind: str
    speed: float
    cold: float
    rows: dict[int, int]

    @property
    def total(self) -> int:
        """Rows of the day."""
        return sum(self.rows.values())


def day(models: int = 100, seed: int = 0, seconds: float = DAY) -> list[ModelTrace]:
    """The traces; the same arguments give the same ones.

    Args:
        seconds: of the day, from its begin.
    """
    traces = []
    at = np.arange(int(seconds / TICK)) * TICK
    for number in range(models):
        chance = np.random.default_rng([seed, number])
        kind = _kind(number, models)
        speed, cold = float(chance.choice((10.0, 20.0, 50.0, 100.0))), float(chance.uniform(15.0, 90.0))
        rows = chance.poisson(_RATES[kind](chance, speed, at) * TICK)
        ticks = np.flatnonzero(rows)
        traces.append(ModelTrace(kind, speed, cold, dict(zip(ticks.tolist(), rows[ticks].tolist(), strict=True))))
    return traces


def _kind(number: int, models: int) -> str:
    share, place = 0.0, (number + 0.5) / models
    for kind, part in zip(KINDS, _SHARES, strict=True):
        share += part
        if place < share:
            return kind
    return KINDS[-1]


def _diurnal(chance: np.random.Generator, speed: float, at: Seconds) -> Seconds:
    """A sun's course with noise of minutes: from nothing at night to one to eight workers at noon."""
    peak, noon, sharpness = speed * chance.uniform(1.0, 8.0), chance.uniform(), chance.uniform(1.0, 3.0)
    noise = chance.uniform(0.8, 1.25, 512)[(at / 180.0).astype(int) % 512]
    sun = np.maximum(0.0, np.cos((at / DAY - noon) * 2 * np.pi))
    return np.asarray(peak * sun**sharpness * noise)


def _bursts(chance: np.random.Generator, speed: float, at: Seconds) -> Seconds:
    """Six to fourteen bursts of two to twenty minutes, each of a height of its own; between them a little."""
    rate = np.full(len(at), speed * chance.uniform(0.0, 0.05))
    quiet = rate.copy()
    for _ in range(chance.integers(6, 15)):
        begin, height = chance.uniform() * DAY, speed * chance.uniform(1.0, 8.0)
        within = (at >= begin) & (at < begin + chance.uniform(120.0, 1200.0))
        rate = np.where(within, np.maximum(rate, quiet + height), rate)
    return rate


def _idle(chance: np.random.Generator, speed: float, at: Seconds) -> Seconds:
    """A request now and then, at most ten an hour."""
    return np.full(len(at), chance.uniform(0.0, 10.0) / 3600.0)


_RATES: Final = {"diurnal": _diurnal, "bursts": _bursts, "idle": _idle}


def totals(traces: Sequence[ModelTrace]) -> dict[str, int]:
    """Rows by kind."""
    return {kind: sum(trace.total for trace in traces if trace.kind == kind) for kind in KINDS}
