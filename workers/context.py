"""What the parts of one worker share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from protocol.dead_letter import MAX_ATTEMPTS
from protocol.naming import Names
from protocol.ports import Bus, Results
from workers.crash_journal import CrashJournal
from workers.retry import Retry


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """The worker's identity and its ways out.

    Attributes:
        worker: its id, also its `group.instance.id`.
        incarnation: changes with every start of the process.
        names: under the fleet's prefix.
        clock: seconds on the fleet's clock; called from any thread.
        bus, results: open.
        retry: for calls that must succeed in the end; each model version has its own (`of_a_model`).
        fence_ttl: seconds that a plain call's fence outlives its answer.
        journal: where instances note what they run; None without a supervisor.
        digest: of the files of the model version whose parts these are; "" for the worker's own.
        max_attempts: runs that may die with a request in them before it goes to the dead letters.
    """

    worker: str
    incarnation: str
    names: Names
    clock: Callable[[], float]
    bus: Bus
    results: Results
    retry: Retry
    fence_ttl: float
    max_attempts: int = MAX_ATTEMPTS
    journal: CrashJournal | None = None
    digest: str = ""

    def of_a_model(self, digest: str) -> Context:
        """The same for the parts of one model version: what fails for them stops nobody else."""
        return dataclasses.replace(self, retry=self.retry.fresh(), digest=digest)

    @property
    def runner(self) -> str:
        """Who begins attempts (`runner_name`)."""
        return runner_name(self.worker, self.incarnation)


def runner_name(worker: str, incarnation: str) -> str:
    """By which the store tells a run that died from one that was only begun again: its supervisor uses the dead worker's."""
    return f"{worker}/{incarnation}"
