"""Instances that run batches: one dedicated thread each, which also loads, warms up and closes its model.

Invariants: a job's fields are written by one side at a time: by the event loop until `submit`, then by the instance's thread until
the job comes back through `Completions`; only `withdrawn` may be set by the loop in between. A job whose deadline has passed or
that was withdrawn before its turn comes back with `stale` set and has not run.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

from protocol.errors import Code, FleetError, ModelFailed
from protocol.messages import InferRequest
from workers.backends.base import Instance
from workers.entries import Entry
from workers.journal import Slot
from workers.scheduling.types import Batch
from workers.tracebacks import text_of

T = TypeVar("T")

DEPTH: Final = 2
"""Batches that an instance holds: one that runs and one that is ready when it ends."""


class InstanceDied(FleetError):
    """The process of an instance ended, or was killed as hung, with a batch in it.

    Attributes:
        signal: the number of the signal that ended it, where one did.
        exit_code: what it ended with, where it ended by itself.
        hung: it was killed from here (`Executor.kill`).
    """

    code = Code.MODEL_FAILED

    def __init__(
        self, message: str, *, signal: int | None = None, exit_code: int | None = None, hung: bool = False
    ) -> None:
        super().__init__(message)
        self.signal = signal
        self.exit_code = exit_code
        self.hung = hung


class ModelRaised(ModelFailed):
    """The model raised in a process of its own, where the exception stays; the message is `tracebacks.text_of` it.

    Attributes:
        kinds: the names of the exception's class and of its bases, itself first.
        trace: see `tracebacks.trace_of`.
    """

    def __init__(self, message: str, kinds: Sequence[str], *, code: Code = Code.MODEL_FAILED, trace: str = "") -> None:
        super().__init__(message, code=code)
        self.kinds = tuple(kinds)
        self.trace = trace


class Job:
    """One batch on its way through an instance. Times are seconds on the fleet's clock, 0 for not yet.

    `cpu` is the seconds of CPU time of a run on the event loop; None for one on the instance's thread. `note` is what its instance
    leaves in the journal while it runs; b"" for nothing.
    """

    __slots__ = (
        "batch", "compute_end", "compute_start", "cpu", "entries", "error", "executor", "input_end", "input_start", "not_after",
        "note", "prepared", "raw", "released", "stale", "withdrawn",
    )  # fmt: skip

    def __init__(self, batch: Batch[InferRequest], entries: list[Entry], executor: Executor) -> None:
        self.batch = batch
        self.entries = entries
        self.executor = executor
        self.released = batch.formed
        self.not_after = math.inf
        self.withdrawn = False
        self.stale = False
        self.cpu: float | None = None
        self.note = b""
        self.prepared: Any = None
        self.raw: Any = None
        self.error: BaseException | None = None
        self.input_start = self.input_end = self.compute_start = self.compute_end = 0.0

    @property
    def requests(self) -> list[InferRequest]:
        """The batch's requests, in order."""
        return [entry.payload for entry in self.entries]


class Executor(Protocol):
    """One loaded instance, wherever it runs: in a thread of this process or in a child process.

    Attributes:
        name: the instance's, for messages and metrics.
        held: jobs given to it (or about to be) that have not come back; at most `DEPTH`.
        anywhere: see `Instance.anywhere`.
        isolated: it is a process of its own, so that a crash of the model costs only that; its jobs then come back with
            `InstanceDied`, and it starts again by itself.
        restarts: how often it was started again; 0 where it is not isolated.
    """

    name: str
    held: int
    anywhere: bool
    isolated: bool
    restarts: int

    def deliver_to(self, completions: Completions) -> None:
        """Where jobs go once they have run; before the first `submit`."""

    def prepare(self, requests: Sequence[InferRequest]) -> Any:
        """See `Instance.prepare`; on any thread."""

    def submit(self, job: Job) -> None:
        """Run the prepared job after those before it; never blocks."""

    def run_here(self, job: Job) -> None:
        """Run the prepared job now, on this thread, and note its CPU time; only if `anywhere` and no other job is held."""

    def split(self, requests: Sequence[InferRequest], raw: Any) -> Sequence[Any]:
        """See `Instance.split`; on any thread."""

    def kill(self) -> None:
        """End the process as hung: the job that runs in it comes back with `InstanceDied`. Only if `isolated`; else nothing."""

    async def close(self) -> None:
        """Free the instance once its jobs have run."""


class Completions:
    """Hands jobs that have run from the instances' threads to the event loop, several with one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_finished: Callable[[list[Job]], None]) -> None:
        self._loop = loop
        self._on_finished = on_finished
        self._jobs: collections.deque[Job] = collections.deque()
        self._woken = False

    def push(self, job: Job) -> None:
        """From any thread: the job has run."""
        self._jobs.append(job)
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:  # the loop is closed: nobody waits for this job any more
                return

    def _drain(self) -> None:
        # Reset before reading: a thread that still sees it set has appended before the loop below looks.
        self._woken = False
        jobs = []
        while self._jobs:
            jobs.append(self._jobs.popleft())
        if jobs:
            self._on_finished(jobs)


async def call_on(put: Callable[[Callable[[], None]], None], function: Callable[[], T]) -> T:
    """The function's result, or what it raises, from the thread that takes what is `put`."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def work() -> None:
        if not future.set_running_or_notify_cancel():  # from here on it cannot be cancelled: its result has a place
            return
        try:
            future.set_result(function())
        except (
            SystemExit,
            KeyboardInterrupt,
        ) as exc:  # of a model's code; the loop that waits for this would end with it
            future.set_exception(ModelFailed(f"the model raised {text_of(exc)}"))
        except BaseException as exc:
            future.set_exception(exc)

    put(work)
    return await asyncio.wrap_future(future)


class ThreadExecutor:
    """An `Executor` that is one thread. Loading happens on it too: some frameworks tie a device or a loop to the thread."""

    isolated = False
    restarts = 0

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self.name = name
        self.held = 0
        self.anywhere = False
        self._clock = clock
        self._instance: Instance | None = None
        self._keep: Callable[[Any], Any] = _as_it_is
        self._completions: Completions | None = None
        self.slot: Slot | None = None
        self._work: queue.SimpleQueue[Callable[[], None] | Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    async def load(self, load: Callable[[], Instance]) -> Instance:
        """Load the instance on its thread; whatever `load` raises is raised here."""
        self._instance = await self.call(load)
        self.anywhere = bool(getattr(self._instance, "anywhere", False))
        self._keep = getattr(self._instance, "keep", _as_it_is)
        return self._instance

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function on the instance's thread, behind the work it has."""
        return await call_on(self._work.put, function)

    def deliver_to(self, completions: Completions) -> None:
        """See `Executor.deliver_to`."""
        self._completions = completions

    def prepare(self, requests: Sequence[InferRequest]) -> Any:
        """See `Executor.prepare`."""
        assert self._instance is not None
        return self._instance.prepare(requests)

    def submit(self, job: Job) -> None:
        """See `Executor.submit`."""
        self._work.put(job)

    def run_here(self, job: Job) -> None:
        """See `Executor.run_here`."""
        before = time.thread_time()
        self._run(job)
        job.cpu = time.thread_time() - before

    def split(self, requests: Sequence[InferRequest], raw: Any) -> Sequence[Any]:
        """See `Executor.split`."""
        assert self._instance is not None
        return self._instance.split(requests, raw)

    def kill(self) -> None:
        """See `Executor.kill`: a thread cannot be ended."""

    async def close(self) -> None:
        """See `Executor.close`; the thread ends."""
        try:
            await self.call(self._free)
        finally:
            self._work.put(None)

    def _free(self) -> None:
        instance, self._instance, self._keep = self._instance, None, _as_it_is
        if instance is not None:
            instance.close()

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            if isinstance(work, Job):
                self._run(work)
                assert self._completions is not None
                self._completions.push(work)
            else:
                work()
            del work  # an idle instance must not keep its last batch in memory

    def _run(self, job: Job) -> None:
        now = self._clock()
        if job.withdrawn or job.not_after <= now:
            job.stale = True
            return
        assert self._instance is not None
        job.compute_start = now
        slot = self.slot if job.note else None
        if slot is not None:
            slot.note(job.note)
        try:
            job.raw = self._keep(self._instance.run(job.prepared))
        except BaseException as exc:  # SystemExit of a model must not end its thread with the batch unanswered
            job.error = exc
        if slot is not None:
            slot.clear()
        job.prepared = None
        job.compute_end = self._clock()


def _as_it_is(raw: Any) -> Any:
    """Of an instance that has no `keep`: what its runs return is never written to again."""
    return raw


def next_free(executors: Sequence[Executor]) -> Executor | None:
    """The executor that holds the fewest jobs; None where all hold `DEPTH`."""
    best = min(executors, key=_held) if len(executors) > 1 else executors[0]
    return best if best.held < DEPTH else None


def _held(executor: Executor) -> int:
    return executor.held


def failure_message(name: str, error: BaseException) -> str:
    """What callers are told when a batch failed on an instance; Triton's words."""
    return f"Failed to process the request(s) for model '{name}', message: {text_of(error)}"
