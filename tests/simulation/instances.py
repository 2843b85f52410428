"""Instances of a simulated worker: threads of it, and processes of their own, which die and hang alone."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from protocol.errors import Code
from protocol.messages import Failure, InferRequest
from protocol.model_config.pbtxt import parse
from protocol.tensors import Array
from workers.backends.base import Outcome
from workers.backends.tensor_instance import TensorInstance
from workers.instances.executor import ThreadExecutor
from workers.instances.job import Completed, InstanceDied, Job
from workers.repository.completion import complete
from workers.repository.version import ModelVersion

if TYPE_CHECKING:
    from tests.simulation.processes import WorkerProcess

SECONDS: Final = (0.001, 0.004, 0.02, 0.2) * 4 + (2.5,)
"""Durations of a batch."""
BAD: Final = 1.0
"""A request whose second value is this has no output: the model refuses it, alone."""
WORSE: Final = 2.0
"""With this one the whole batch fails, and the worker has to find the culprit."""
KILLS: Final = 3.0
"""With this one the process of the instance dies."""
HANGS: Final = 4.0
"""With this one a batch never ends."""
POISON: Final = (KILLS, HANGS)
CONFIG: Final = complete(
    parse(
        """
        backend: "identity" max_batch_size: 4
        input [ { name: "X" data_type: TYPE_FP32 dims: [ 2 ] } ]
        output [ { name: "Y" data_type: TYPE_FP32 dims: [ 2 ] } ]
        dynamic_batching { max_queue_delay_microseconds: 3000 }
        parameters: { key: "max_execution_ms" value: { string_value: "3000" } }
        """,
        "config.pbtxt",
        "m",
    ),
    None,
)
VERSION: Final = ModelVersion("m", 1, Path("/nowhere"), Path("/nowhere"), CONFIG, "digest")


class SimInstance(TensorInstance):
    """Returns its input."""

    def compute(self, inputs: dict[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        if (inputs["X"][:, 1] == WORSE).any():
            raise RuntimeError("a row that no batch survives")
        return {"Y": inputs["X"]}

    def split(self, requests: Sequence[InferRequest], raw: Mapping[str, Array]) -> Sequence[Outcome]:
        outcomes = list(super().split(requests, raw))
        for index, request in enumerate(requests):
            if kind(request) == BAD:
                outcomes[index] = Failure(Code.MODEL_FAILED, "a bad row")
        return outcomes


def kind(request: InferRequest) -> float:
    """0, or the kind of fault in the request."""
    return float(request.inputs[0].array().flat[1])


class SimSlot:
    """An instance's note of its batch while the batch runs."""

    def __init__(self) -> None:
        self.text = b""

    def note(self, text: bytes) -> None:
        self.text = text

    def clear(self) -> None:
        """The real run ends at once here; see `SimThread._over`."""


class SimJournal:
    """The requests running in the workers of one host, kept over their deaths: `CrashJournal` and `CrashJournalReader` in one."""

    def __init__(self) -> None:
        self.slots: list[SimSlot] = []

    def open_slot(self) -> SimSlot:
        self.slots.append(SimSlot())
        return self.slots[-1]

    def free_slot(self, slot: SimSlot) -> None:
        self.slots.remove(slot)

    def take_running(self) -> list[str]:
        slots, self.slots = self.slots, []
        return [name for slot in slots for name in slot.text.decode().split("\n") if name]

    def close(self) -> None:
        pass


class SimThread(ThreadExecutor):
    """The real run, at a virtual time and for a virtual duration, without its thread."""

    def __init__(self, worker: WorkerProcess, name: str) -> None:
        self.name = name
        self.held = 0
        self.loop_safe = False
        self.journal_slot = None
        self._worker = worker
        self._clock = worker.clock
        self._instance = SimInstance(CONFIG)
        self._keep = lambda raw: raw
        self._completed: Completed | None = None
        self._jobs: collections.deque[Job] = collections.deque()
        self._running = False

    def submit(self, job: Job) -> None:
        self._jobs.append(job)
        if not self._running:
            self._next()

    def _next(self) -> None:
        if not self._jobs:
            return
        job = self._jobs.popleft()
        self._running = True
        self._run(job)
        seconds = 0.0
        fleet = self._worker.fleet
        if not job.stale:
            fleet.history.ran(self._worker.process, job.entries, self._clock())
            seconds = fleet.dice.choice(SECONDS)
            if any(kind(request) == KILLS for request in job.requests):
                fleet.loop.call_later(seconds, fleet.loop.kill, self._worker.process)
                return
        fleet.loop.call_later(seconds, self._over, job)

    def _over(self, job: Job) -> None:
        self._running = False
        if not job.stale:
            job.compute_end = self._clock()
        if self.journal_slot is not None:
            self.journal_slot.note(b"")
        assert self._completed is not None
        self._completed.push(job)
        self._next()

    async def close(self) -> None:
        pass


class SimChild:
    """An instance that is a process: `instances.process.executor.ChildExecutor` as its worker sees it."""

    isolated = True
    loop_safe = False

    def __init__(self, worker: WorkerProcess, name: str) -> None:
        self.name = name
        self.held = 0
        self.restarts = 0
        self._worker = worker
        self._clock = worker.clock
        self._instance = SimInstance(CONFIG)
        self._completed: Completed | None = None
        self._jobs: collections.deque[Job] = collections.deque()
        self._job: Job | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._up = True

    def deliver_to(self, completed: Completed) -> None:
        self._completed = completed

    def prepare(self, requests: Sequence[InferRequest]) -> Any:
        return self._instance.prepare(requests)

    def split(self, requests: Sequence[InferRequest], raw: Any) -> Sequence[Any]:
        return self._instance.split(requests, raw)

    def run_here(self, job: Job) -> None:
        raise AssertionError("a batch of an isolated instance on the event loop")

    async def attempt(self, requests: Sequence[InferRequest]) -> Sequence[Any]:
        raise AssertionError("an attempt in a simulated fleet, which prints no examples")

    def submit(self, job: Job) -> None:
        self._jobs.append(job)
        self._next()

    def _next(self) -> None:
        while self._jobs and self._up and self._job is None:
            job = self._jobs.popleft()
            now = self._clock()
            if job.withdrawn or job.not_after <= now:
                job.stale = True
                self._push(job)
            else:
                self._begin(job, now)

    def _begin(self, job: Job, now: float) -> None:
        fleet = self._worker.fleet
        self._job, job.compute_start = job, now
        fleet.history.ran(self._worker.process, job.entries, now)
        seconds = fleet.dice.choice(SECONDS)
        kinds = {kind(request) for request in job.requests}
        if KILLS in kinds:
            self._ending = fleet.loop.call_later(seconds, self.die, 11)
        elif HANGS not in kinds:
            self._ending = fleet.loop.call_later(seconds, self._over)

    def _over(self) -> None:
        job, self._job = self._job, None
        assert job is not None
        try:
            job.raw = self._instance.run(job.prepared)
        except Exception as error:
            job.error = error
        job.prepared, job.compute_end = None, self._clock()
        self._push(job)
        self._next()

    def _push(self, job: Job) -> None:
        assert self._completed is not None
        self._completed.push(job)

    @property
    def busy(self) -> bool:
        return self._job is not None

    def kill(self) -> None:
        self.die(9, hung=True)

    def die(self, signal: int, hung: bool = False) -> None:
        """Its process ends; called in the context of its worker."""
        if not self._up:
            return
        fleet, job, self._job = self._worker.fleet, self._job, None
        if self._ending is not None:
            self._ending.cancel()
        fleet.history.note("child died", self._worker.process, signal, hung)
        self._up = False
        self.restarts += 1
        fleet.loop.call_later(fleet.dice.choice((0.02, 0.3, 1.0)), self._again)
        if job is not None:
            fleet.history.child_died(job.entries)
            job.error = InstanceDied("the instance's process ended", signal=signal, hung=hung)
            job.prepared, job.compute_end = None, self._clock()
            self._push(job)

    def _again(self) -> None:
        self._up = True
        self._next()

    async def close(self) -> None:
        pass
