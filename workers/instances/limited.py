"""Instances that wait for shared resources before each batch: what `rate_limiter.ResourceTurns` decides, done.

Invariants: a job is given to its instance once its resources are taken, and they are free again when it comes back; one lock guards
the decisions of a worker, and nothing is waited for while it is held. Models without resources have the plain executors.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from protocol.model_config import ModelConfig
from workers.backends.base import Instance
from workers.instances.executor import ThreadExecutor
from workers.instances.job import Completed, Job
from workers.instances.process.executor import ChildExecutor
from workers.instances.rate_limiter import Contender, Pool, ResourceTurns, contender
from workers.repository.placement import Placement

if TYPE_CHECKING:
    _Executor = ThreadExecutor
else:
    _Executor = object


class Place:
    """One instance's place among those of its worker.

    Args:
        limit: the worker's.
        member: the instance, for the decisions.
    """

    def __init__(self, limit: RateLimit, member: Contender) -> None:
        self.member = member
        self._limit = limit
        self._jobs: collections.deque[Job] = collections.deque()
        self._run: Callable[[Job], None] | None = None
        self._busy = False

    def submit(self, job: Job, run: Callable[[Job], None]) -> None:
        """Call `run` with the job, on any thread, once the resources are taken."""
        with self._limit.lock:
            self._run = run
            self._jobs.append(job)
            if not self._busy:
                self._busy = True
                self._limit.start(self._limit.turns.begin(self.member))

    def done(self) -> None:
        """The job that ran came back."""
        with self._limit.lock:
            self._busy = bool(self._jobs)
            self._limit.start(self._limit.turns.end(self.member, more=self._busy))

    def leave(self) -> None:
        """The instance is closed; what it holds is free."""
        with self._limit.lock:
            self._jobs.clear()
            self._limit.places.pop(self.member, None)
            self._limit.start(self._limit.turns.remove(self.member))

    def start_next(self) -> None:
        """The resources of the oldest job are taken."""
        assert self._run is not None
        self._run(self._jobs.popleft())


class RateLimit:
    """The resources of one worker and who waits for them.

    Args:
        stated: see `ResourceTurns`.
    """

    def __init__(self, stated: Mapping[Pool, int]) -> None:
        self.turns = ResourceTurns(stated)
        self.lock = threading.Lock()
        self.places: dict[Contender, Place] = {}

    def admit(self, config: ModelConfig, placements: Sequence[Placement]) -> list[Place | None]:
        """A place for each instance that takes resources.

        Raises:
            ConfigError: see `ResourceTurns.admit`.
        """
        groups = config.instance_groups
        members = [contender(groups[each.group].rate_limiter, each.device_id) for each in placements]
        with self.lock:
            self.turns.admit([member for member in members if member.needs], config.name)
            for member in members:
                if member.needs:
                    self.places[member] = Place(self, member)
        return [self.places.get(member) for member in members]

    def start(self, granted: Sequence[Contender]) -> None:
        """Give these instances their next jobs; the lock is held."""
        for member in granted:
            self.places[member].start_next()


class _Passing:
    """Frees the resources of a job before it passes it on."""

    def __init__(self, completed: Completed, place: Place) -> None:
        self._completed = completed
        self._place = place

    def push(self, job: Job) -> None:
        """See `Completed.push`."""
        self._place.done()
        self._completed.push(job)


class _Limited(_Executor):
    """An executor whose jobs wait for resources; they never run on the event loop."""

    def __init__(self, place: Place, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._place = place

    def submit(self, job: Job) -> None:
        """See `Executor.submit`."""
        self._place.submit(job, super().submit)

    def deliver_to(self, completed: Completed) -> None:
        """See `Executor.deliver_to`."""
        super().deliver_to(_Passing(completed, self._place))

    async def close(self) -> None:
        """See `Executor.close`."""
        try:
            await super().close()
        finally:
            self._place.leave()


class LimitedThread(_Limited, ThreadExecutor):
    """See `ThreadExecutor`."""

    async def load(self, load: Callable[[], Instance]) -> Instance:
        """See `ThreadExecutor.load`."""
        instance = await super().load(load)
        self.loop_safe = False
        return instance


class LimitedChild(_Limited, ChildExecutor):  # type: ignore[misc]  # _Limited is typed as the thread, and calls what both have
    """See `ChildExecutor`."""
