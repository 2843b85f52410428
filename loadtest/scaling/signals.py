"""What the policies beside ours look at: Kafka's lag, the workers' CPU, and the future."""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import psutil

from infra.local.autoscaler import Reading
from infra.local.scaler import Workers
from loadtest.scaling import future
from protocol.errors import FleetError
from protocol.ports import Bus

LAG_THRESHOLD: Final = 10
"""KEDA's default: records of lag per replica."""
CPU_TARGET: Final = 0.7
CPU_WINDOW: Final = 3.0
"""Seconds over which CPU is averaged."""


def lag_load(total: int, partitions: int, threshold: int = LAG_THRESHOLD) -> float:
    """Replicas that KEDA's Kafka scaler asks for: lag / threshold, and no more replicas than partitions."""
    return min(total / threshold, float(partitions))


def lag_of(extents: Mapping[int, tuple[int, int]], committed: Mapping[int, int]) -> int:
    """Records between what the group has committed and the log's end; all of a partition that never had a commit."""
    return sum(max(0, end - max(begin, committed.get(partition, 0))) for partition, (begin, end) in extents.items())


class LagSignal:
    """Committed lag, as KEDA's Kafka scaler reads it.

    Args:
        bus: open.
        topic: of the model version; its group has the same name.
        threshold: records per replica.
    """

    def __init__(self, bus: Bus, topic: str, threshold: int = LAG_THRESHOLD) -> None:
        self._bus = bus
        self._topic = topic
        self._threshold = threshold

    async def read(self, replicas: int) -> Reading | None:
        """See `Signal.read`."""
        try:
            extents = (await self._bus.extents([self._topic])).get(self._topic)
            committed = await self._bus.committed(self._topic, self._topic)
        except FleetError:
            return None
        if extents is None:
            return None
        total = lag_of(extents, committed)
        return Reading(total > 0, lag_load(total, len(extents), self._threshold))

    async def change(self, within: float) -> None:
        """See `Signal.change`: it is only looked at now and then."""
        await asyncio.sleep(within)


class CpuSignal:
    """CPU time of the ready workers, as a share of what one is expected to take; at least one worker must run.

    Args:
        workers: whose processes are looked at.
        request: CPU seconds per second that a worker asks for, as in its pod's resources.
    """

    def __init__(self, workers: Workers, request: float) -> None:
        self._workers = workers
        self._request = request
        self._known: dict[str, collections.deque[tuple[float, float]]] = {}

    async def read(self, replicas: int) -> Reading | None:
        """See `Signal.read`; None while no worker was ready for long enough."""
        shares = await asyncio.to_thread(self._shares)
        if not shares:
            return None
        return Reading(True, sum(shares) / len(shares) / CPU_TARGET * replicas)

    async def change(self, within: float) -> None:
        """See `Signal.change`."""
        await asyncio.sleep(within)

    def _shares(self) -> list[float]:
        now, shares = time.perf_counter(), []
        ready = {worker.name: worker for worker in self._workers.ready}
        self._known = {name: self._known.get(name, collections.deque()) for name in ready}
        for name, taken in self._known.items():
            taken.append((now, cpu_seconds(ready[name].process.pid)))
            while len(taken) > 2 and taken[1][0] <= now - CPU_WINDOW:
                taken.popleft()
            (since, before), (_, after) = taken[0], taken[-1]
            if now - since > CPU_WINDOW / 2:
                shares.append(max(0.0, after - before) / (now - since) / self._request)
        return shares


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all below it, in seconds; 0 if it has ended."""
    total = 0.0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system
    except psutil.NoSuchProcess:
        return total
    return total


class FutureSignal:
    """A plan that was made with knowledge of the load.

    Args:
        changes: of the plan (`future.plan`).
        now: seconds since the load began.
    """

    def __init__(self, changes: Sequence[tuple[float, int]], now: Callable[[], float]) -> None:
        self._changes = changes
        self._now = now

    async def read(self, replicas: int) -> Reading | None:
        """See `Signal.read`."""
        number = future.at(self._changes, self._now())
        return Reading(number > 0, float(number))

    async def change(self, within: float) -> None:
        """See `Signal.change`: until the plan's next change."""
        now = self._now()
        coming: Collection[float] = [at - now for at, _ in self._changes if at > now]
        await asyncio.sleep(min(within, min(coming, default=within)))
