"""Samples the memory of the fleet's processes during a run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import psutil

from penstock.verify.fleet.fleet import Fleet
from penstock.verify.fleet.processes import Member
from penstock.verify.observe.history import MemorySample

EVERY: Final = 1.0


async def sample_memory(fleet: Fleet, clock: Callable[[], float], into: list[MemorySample]) -> None:
    """Sample the resident memory of every process of the fleet until cancelled."""
    while True:
        for member in tuple(fleet.members.values()):
            at = clock()
            into += [MemorySample(at, member.name, pid, rss) for pid, rss in await asyncio.to_thread(_weights, member)]
        await asyncio.sleep(EVERY)


def _weights(member: Member) -> list[tuple[int, int]]:
    weights = []
    for process in member.family():
        with contextlib.suppress(psutil.Error):
            weights.append((process.pid, process.memory_info().rss))
    return weights
