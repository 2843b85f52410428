"""Batches that run too long: a process is killed; a thread cannot be, so the worker logs the batch and is not ready.

Invariant: only a batch that has begun can hang; one that waits for its instance, or for a restart, is never counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from workers.failures.limits import time_limit
from workers.instances.job import Job
from workers.latency import LatencyModel

INTERVAL: Final = 1.0
"""Seconds between checks; a model that states a shorter limit is checked four times within that."""

log = structlog.get_logger(__name__)


class HangWatch:
    """Watches the batches of one model version.

    Args:
        latency: predicts how long a batch should take.
        stated: see `completion.stated_limit`.
        clock: the fleet's.

    Attributes:
        stuck: batches that hang on an instance that cannot be killed.
    """

    def __init__(self, latency: LatencyModel, stated: float | None, clock: Callable[[], float]) -> None:
        self.stuck: set[Job] = set()
        self._latency = latency
        self._stated = stated
        self._clock = clock
        self._interval = INTERVAL if stated is None else min(INTERVAL, stated / 4)
        self._jobs: set[Job] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def begin(self, job: Job) -> None:
        """The job is given to its instance."""
        self._jobs.add(job)
        if self._timer is None:
            self._timer = self._loop.call_later(self._interval, self._on_timer)

    def end(self, job: Job) -> None:
        """The job came back."""
        self._jobs.discard(job)
        self.stuck.discard(job)

    def stop(self) -> None:
        """Watch nothing more."""
        self._jobs.clear()
        if self._timer is not None:
            self._timer.cancel()

    def limit(self, job: Job) -> float:
        """Seconds that the job may run."""
        predicted = self._latency.predict(job.entries[0].shape_class, job.batch.rows)
        deadlines = [entry.deadline for entry in job.entries if entry.deadline is not None]
        return time_limit(self._stated, predicted, max(deadlines) - job.compute_start if deadlines else None)

    def check(self, now: float) -> None:
        """Kill the instance of every batch that has run too long, or note that it is stuck."""
        for job in self._jobs - self.stuck:
            limit = self.limit(job)
            if not job.compute_start or job.stale or now - job.compute_start <= limit:
                continue
            about = {"instance": job.executor.name, "requests": len(job.entries), "limit": limit}
            if job.executor.isolated:
                log.error("a batch hangs; its instance is killed", **about)
                job.executor.kill()
            else:
                self.stuck.add(job)
                log.error("a batch hangs on a thread, which cannot be killed; this worker is not ready", **about)

    def _on_timer(self) -> None:
        self._timer = None
        self.check(self._clock())
        if self._jobs:
            self._timer = self._loop.call_later(self._interval, self._on_timer)
