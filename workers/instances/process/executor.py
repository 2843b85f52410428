"""Instances that run in child processes: an `Executor` each, with one thread that sends commands and waits for replies.

Invariants: a child has at most one batch, so the batch that it dies with is known; a job that is lost with its child comes back
with `InstanceDied` before the next child is loaded; jobs that no child has yet wait for the next one; killing a child because the
executor closes blames no request: its job does not come back, and its records stay uncommitted in the log.
"""

from __future__ import annotations

import asyncio
import collections
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog

from protocol.deadline import too_late
from protocol.errors import ConfigError, FleetError, Unavailable, quoted
from protocol.messages import InferRequest
from protocol.model_config import Kind, ModelConfig
from workers.backends.tracebacks import traced
from workers.instances.executor import call_on
from workers.instances.job import Completed, InstanceDied, Job
from workers.instances.process import commands
from workers.instances.process.channel import ChannelBroken
from workers.instances.process.child import Child
from workers.instances.process.pool import ChildPool
from workers.instances.process.segments import SegmentSlots
from workers.instances.process.sticky import is_sticky
from workers.instances.process.transfer import StagedBatch, Transfer
from workers.instances.readiness import Readiness
from workers.repository.placement import Placement
from workers.repository.row_influence import Verdict
from workers.repository.version import ModelVersion
from workers.system.backoff import Backoff

CLOSE_GRACE: Final = 5.0
"""Seconds that a child gets to finish its batch and free its model; a drained instance has no batch."""
SHORT_LIFE: Final = 2.0
"""Seconds: after a child that exits sooner the restart backs off."""
PARAMETER: Final = "instance_isolation"
"""A model's parameter: `process` or `thread`."""
ISOLATED: Final = frozenset({"python", "pytorch"})
"""Backends whose instances are processes unless their configuration says otherwise: Python models run third-party code; importing
torch holds the interpreter's lock for more than half a second without a break, during which a worker that imported it in a thread
would answer no requests."""

log = structlog.get_logger(__name__)


def is_isolated(config: ModelConfig, placements: Sequence[Placement] = ()) -> bool:
    """Whether the model's instances are processes.

    Args:
        config: of the model.
        placements: of its instances, if known. On a GPU each is a process: after some errors CUDA refuses every further call of the
            process (`sticky`), which must not be the worker.

    Raises:
        ConfigError: its parameter is neither `process` nor `thread`.
    """
    chosen = config.parameters.get(PARAMETER)
    if chosen is None:
        return config.backend in ISOLATED or any(placement.kind is Kind.GPU for placement in placements)
    if chosen not in ("process", "thread"):
        raise ConfigError(f"parameter '{PARAMETER}' of {config.name} must be process or thread, not {quoted(chosen)}")
    return chosen == "process"


class ChildExecutor:
    """See `Executor`.

    Args:
        clock: seconds on the fleet's clock.
        pool: where children come from.
        version: complete.
        placement: of this instance.
    """

    isolated = True
    loop_safe = False

    def __init__(
        self, clock: Callable[[], float], pool: ChildPool, version: ModelVersion, placement: Placement
    ) -> None:
        self.name = placement.name
        self.held = 0
        self.restarts = 0
        self._clock = clock
        self._pool = pool
        self._version = version
        self._placement = placement
        self._about = {"model": version.model, "version": version.version, "instance": placement.name}
        self._slots = SegmentSlots()
        self._backoff = Backoff()
        self._child: Child | None = None
        self._transfer: Transfer | None = None
        self._readiness: Readiness | None = None
        self._loaded_at = 0.0
        self._known_death = ""
        self._running: Job | None = None
        self._hung: Job | None = None
        self._completed: Completed | None = None
        self._closing = threading.Event()
        self._waiting: collections.deque[Job] = collections.deque()
        self._work: queue.SimpleQueue[Callable[[], None] | Job | Child | None] = queue.SimpleQueue()
        pool.hold(version.config.backend)
        threading.Thread(target=self._serve, name=self.name, daemon=True).start()

    async def load(self, child: Child | None = None) -> None:
        """Load and warm up the instance.

        Args:
            child: one that has inspected this version; None for a new one.

        Raises:
            FleetError: the model's own error, or `InstanceDied`.
        """
        await self._call(lambda: self._start(child or self._take()))

    async def try_batching(self) -> Verdict:
        """See `batching_check.try_batching`."""
        child = self._child
        assert child is not None
        return await call_on(self._work.put, lambda: commands.try_batching(child))

    async def reconfigure(self, version: ModelVersion) -> bool:
        """See `ThreadExecutor.reconfigure`."""
        child = self._child
        done = child is None or await call_on(self._work.put, lambda: commands.reconfigure(child, version))
        if done:
            self._version = version
        return done

    def deliver_to(self, completed: Completed) -> None:
        """See `Executor.deliver_to`."""
        self._completed = completed

    def prepare(self, requests: Sequence[InferRequest]) -> StagedBatch:
        """Copy the inputs into shared memory; the child stacks them."""
        return StagedBatch(self._slots, requests)

    def submit(self, job: Job) -> None:
        """See `Executor.submit`."""
        self._work.put(job)

    def run_here(self, job: Job) -> None:
        """Never: see `loop_safe`."""
        raise RuntimeError(f"instance '{self.name}' is a process of its own; it cannot run on this thread")

    def split(self, requests: Sequence[InferRequest], raw: Any) -> Sequence[Any]:
        """The outcomes, which the child has split; raises the error that it raised."""
        if isinstance(raw, FleetError):
            raise raw
        outcomes: Sequence[Any] = raw
        return outcomes

    async def attempt(self, requests: Sequence[InferRequest]) -> Sequence[Any]:
        """See `Executor.attempt`."""
        return await call_on(self._work.put, lambda: self._attempt(requests))

    def problem(self) -> str:
        """See `Executor.problem`."""
        child, readiness = self._child, self._readiness
        if child is None or child.exited or child.killed:
            return f"instance '{self.name}' has no process: it died and is being restarted"
        return "" if readiness is None else readiness.problem()

    def kill(self) -> None:
        """See `Executor.kill`."""
        child = self._child
        if child is not None:
            self._hung = self._running
            child.kill()

    async def close(self) -> None:
        """See `Executor.close`; a child that does not exit is killed."""
        self._closing.set()
        closing = asyncio.ensure_future(self._call(self._free))
        done, _ = await asyncio.wait((closing,), timeout=CLOSE_GRACE)
        if not done:
            log.warning("an instance does not close; its process is killed", **self._about)
            self.kill()
        try:
            await closing
        finally:
            self._work.put(None)
            self._slots.close()
            await asyncio.to_thread(self._pool.release, self._version.config.backend)

    @property
    def pid(self) -> int | None:
        """The process's number, while there is one."""
        child = self._child
        return None if child is None else child.pid

    async def _call(self, function: Callable[[], object]) -> None:
        await call_on(self._work.put, function)

    # --- the thread --------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while (work := self._next()) is not None:
            if isinstance(work, Job):
                self._run(work)
            elif isinstance(work, Child):
                self._child_exited(work)
            else:
                work()
            del work  # an idle instance must not keep its last batch in memory

    def _next(self) -> Callable[[], None] | Job | Child | None:
        return self._waiting.popleft() if self._waiting else self._work.get()

    def _run(self, job: Job) -> None:
        if self._child is None or self._child.exited or self._child.killed:
            self._restart()
        now = self._clock()
        if job.withdrawn or too_late(job.not_after, now):
            job.stale = True
            self._deliver(job)
        elif self._transfer is not None:
            job.compute_start = now
            self._run_in_child(job, self._transfer)

    def _run_in_child(self, job: Job, transfer: Transfer) -> None:
        self._running = job
        try:
            ran = transfer.run(job.prepared)
        except ChannelBroken:
            self._running = None
            self._lose(job)
            return
        self._running = None
        if ran.began:
            ago = self._clock() - time.monotonic()
            job.compute_start, job.compute_end = ran.began + ago, ran.ended + ago
        else:
            job.compute_start = job.compute_end = 0.0
        job.raw, job.error, job.prepared = ran.raw, ran.error, None
        self._deliver(job)
        if ran.error is not None and is_sticky(ran.error.message):
            self._replace(ran.error)

    def _attempt(self, requests: Sequence[InferRequest]) -> Sequence[Any]:
        child, transfer = self._child, self._transfer
        if child is None or transfer is None:
            raise Unavailable(self.problem())
        try:
            ran = transfer.run(StagedBatch(self._slots, requests))
        except ChannelBroken:  # `_child_exited` restarts it
            raise child.exit_error("while it ran a request that nobody waits for") from None
        if ran.error is not None and is_sticky(ran.error.message):
            self._replace(ran.error)
            raise InstanceDied(ran.error.message)
        if ran.error is not None:
            raise ran.error
        return self.split(requests, ran.raw)

    def _replace(self, error: FleetError) -> None:
        """Go on with a new child after an error that no further call survives."""
        log.error("CUDA is unusable in this process, which is replaced", error=error.message, **self._about)
        self._restart()

    def _lose(self, job: Job) -> None:
        """The child has exited with the job in it: deliver that first, then start the next child."""
        child = self._child
        assert child is not None
        job.error = child.exit_error("while it ran a batch", hung=self._hung is job)
        job.prepared, job.compute_end, self._hung = None, self._clock(), None
        if self._closing.is_set():
            return
        log.error(
            "an instance died with a batch", requests=len(job.entries), request=job.entries[0].payload.id,
            error=str(job.error), **self._traced(job.error), **self._about,
        )  # fmt: skip
        self._deliver(job)
        self._restart()

    def _traced(self, error: BaseException) -> dict[str, str]:
        """What the log record has beside the error's text: its trace, unless the last one was the same."""
        known, self._known_death = self._known_death, str(error)
        return {} if known == str(error) else traced(error)

    def _deliver(self, job: Job) -> None:
        assert self._completed is not None
        self._completed.push(job)

    # --- its child ---------------------------------------------------------------------------------------------------

    def _take(self) -> Child:
        return self._pool.take(self._version.config.backend)

    def _start(self, child: Child) -> None:
        """Load the model in the child, and make the child this instance's."""
        child.about = self._about
        readiness = None
        self._child = child  # from now on `kill` ends it, even while it loads
        try:
            if commands.load(child, self._version, self._placement):
                readiness = Readiness(self._version.model)
                commands.watch(child, self._version, readiness)
                readiness.await_first()
        except BaseException:
            self._child = None
            child.kill()
            child.stop(0.0)
            raise
        self._transfer, self._readiness = Transfer(child), readiness
        self._loaded_at = time.monotonic()
        child.call_on_exit(lambda: self._work.put(child))

    def _child_exited(self, child: Child) -> None:
        """A child has exited; if it was this instance's, between two batches."""
        if child is not self._child or self._closing.is_set():
            return
        lived = time.monotonic() - self._loaded_at
        died = child.exit_error("while it was idle")
        log.error("an instance died between batches", error=str(died), **self._traced(died), **self._about)
        if lived < SHORT_LIFE:
            self._closing.wait(self._backoff.after(lived))
        self._restart()

    def _restart(self) -> None:
        """Load the model in new children until one succeeds or the executor is closed."""
        began = time.monotonic()
        former, self._child, self._transfer = self._child, None, None
        if former is not None:
            former.stop(0.0)
        while not self._closing.is_set():
            self.restarts += 1
            try:
                self._start(self._take())
            except Exception as exc:
                log.error("an instance cannot be restarted", error=str(exc), **traced(exc), **self._about)
                self._deliver_late()
                self._closing.wait(self._backoff.after(began - self._loaded_at))
                self._loaded_at = began
            else:
                log.info("an instance was restarted", seconds=round(time.monotonic() - began, 3), **self._about)
                return

    def _deliver_late(self) -> None:
        """Deliver the jobs that have become too late while there is no child to run them."""
        for _ in range(self._work.qsize()):
            work = self._work.get()
            if isinstance(work, Job):
                self._waiting.append(work)
            elif not isinstance(work, Child):
                self._work.put(work)
        now = self._clock()
        for job in [job for job in self._waiting if job.withdrawn or too_late(job.not_after, now)]:
            self._waiting.remove(job)
            job.stale = True
            self._deliver(job)

    def _free(self) -> None:
        child, self._child, self._transfer = self._child, None, None
        if child is None:
            return
        if child.killed:
            child.stop(0.0)
            return
        try:
            commands.close(child, self._version)
        finally:
            child.stop(CLOSE_GRACE)
