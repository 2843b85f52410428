"""The objects that all parts of one worker share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from protocol.dead_letter import MAX_ATTEMPTS
from protocol.naming import Names
from protocol.ports import Bus, Results
from protocol.runtime.microtasks import Microtasks
from workers.crash_journal import CrashJournal
from workers.response_cache import ResponseCache
from workers.retry import Retry


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """The worker's identity, clock, bus and store.

    Attributes:
        worker: its id, also its `group.instance.id`.
        incarnation: changes with every start of the process.
        names: under the fleet's prefix.
        clock: seconds on the fleet's clock; called from any thread.
        bus, results: open.
        retry: for calls that must succeed in the end; each model version has its own (`of_a_model`).
        fence_ttl: seconds that a plain call's fence outlives its answer.
        topic_fence_ttl: the same for an answer that goes to a topic.
        created_topics: topics of results that this worker created or tried to; shared by its model versions.
        journal: where instances note the requests that they run; None without a supervisor.
        digest: of the model version's files; "" in the worker's own context.
        microtasks: of the parts that share this event loop.
        cache: the response cache; None if answers are not kept.
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
    microtasks: Microtasks = dataclasses.field(default_factory=Microtasks)
    topic_fence_ttl: float = 60.0
    cache: ResponseCache | None = None
    created_topics: set[str] = dataclasses.field(default_factory=set)

    def of_a_model(self, digest: str) -> Context:
        """The context of one model version: its failing calls stop no other model."""
        return dataclasses.replace(self, retry=self.retry.fresh(), digest=digest)

    @property
    def runner(self) -> str:
        """The name under which this worker starts attempts (`runner_name`)."""
        return runner_name(self.worker, self.incarnation)


def runner_name(worker: str, incarnation: str) -> str:
    """By this name the store tells a run that died from one that only started again; a supervisor uses its dead worker's."""
    return f"{worker}/{incarnation}"
