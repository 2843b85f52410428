"""Loads a fresh broker until it becomes no faster.

A JVM compiles hot code: in its first minutes a call costs Kafka two to five times the CPU, most of it in the compiler. Kafka's time
is measured as a multiple of the gateway's, which depends only on the machine's speed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from loadtest import wrk
from loadtest.payloads import Pool
from loadtest.systems import System

ROUND: Final = 12.0
"""Seconds; half of them by 32 callers, half by one."""
NO_BETTER: Final = 0.95
"""Two rounds that cost at least this share of the best earlier one end it."""


def warm(system: System, model: str, pool: Pool, load_core: int | None, seconds: float) -> list[float]:
    """Load the broker until its cost per call settles, for at most `seconds`; returns one caller's cost per call in each round."""
    costs: list[float] = []
    while len(costs) < int(seconds / ROUND) and not settled(costs):
        costs.append(_round(system, model, pool, load_core))
    return costs


def settled(costs: Sequence[float]) -> bool:
    """Whether the last two rounds were no better than those before."""
    return len(costs) > 2 and min(costs[-2:]) >= NO_BETTER * min(costs[:-2])


def _round(system: System, model: str, pool: Pool, load_core: int | None) -> float:
    address = system.address(model)
    wrk.run(address, pool, callers=32, seconds=ROUND / 2, core=load_core)
    with system.meter.window() as spent:
        wrk.run(address, pool, callers=1, seconds=ROUND / 2, core=load_core)
    return spent["kafka"] / spent["gateway"] if spent.get("kafka") else math.inf
