"""Instances in threads of this process: one dedicated thread each, which loads, warms up, runs and closes its model.

The contract between executors and the event loop is in `job`.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import functools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from protocol.deadline import too_late
from protocol.errors import ModelFailed
from protocol.messages import InferRequest
from workers.backends.base import Instance
from workers.backends.opening import reconfigured
from workers.backends.tracebacks import text_of
from workers.crash_journal import JournalSlot
from workers.instances.job import Completed, Executor, Job
from workers.instances.readiness import Readiness, ReadyWatch
from workers.repository.version import ModelVersion

T = TypeVar("T")

DEPTH: Final = 2
"""Batches that an instance holds: one that runs and one that is ready when it ends."""


class Completions:
    """Hands finished jobs from the instances' threads to the event loop, several per wake-up."""

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
            except RuntimeError:  # the loop is closed: nothing waits for this job
                return

    def _drain(self) -> None:
        # Reset before draining: a thread that still sees it set has appended its job before the loop below ends.
        self._woken = False
        jobs = []
        while self._jobs:
            jobs.append(self._jobs.popleft())
        if jobs:
            self._on_finished(jobs)


async def call_on(put: Callable[[Callable[[], None]], None], function: Callable[[], T]) -> T:
    """The function's result or exception, from the thread that takes work through `put`."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def work() -> None:
        if not future.set_running_or_notify_cancel():  # from here on it cannot be cancelled
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


async def call_apart(name: str, function: Callable[[], T]) -> T:
    """The function's result or exception, from a thread of its own for which no end of the process waits."""
    return await call_on(lambda work: threading.Thread(target=work, name=name, daemon=True).start(), function)


class ThreadExecutor:
    """An `Executor` with one thread, which also loads the model: some frameworks tie a device or an event loop to the thread."""

    isolated = False
    restarts = 0
    _readiness: Readiness | None = None
    _watch: ReadyWatch | None = None

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self.name = name
        self.held = 0
        self.loop_safe = False
        self._clock = clock
        self._instance: Instance | None = None
        self._keep: Callable[[Any], Any] = _unchanged
        self._completed: Completed | None = None
        self.journal_slot: JournalSlot | None = None
        self._work: queue.SimpleQueue[Callable[[], None] | Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    async def load(self, load: Callable[[], Instance]) -> Instance:
        """Load the instance on its thread; raises whatever `load` raises."""
        self._instance = await self.call(load)
        # `anywhere` was its name: a third-party backend may still use that.
        self.loop_safe = bool(getattr(self._instance, "loop_safe", getattr(self._instance, "anywhere", False)))
        self._keep = getattr(self._instance, "keep", _unchanged)
        return self._instance

    async def reconfigure(self, version: ModelVersion) -> bool:
        """Go on with the version, of the same file with another configuration; False if the model must be loaded anew for it."""
        if self._instance is None:
            return True
        renewed = await self.call(functools.partial(reconfigured, self._instance, version.config))
        if renewed is not None:
            self._instance, self._keep = renewed, getattr(renewed, "keep", _unchanged)
        return renewed is not None

    async def watch(self, model: str) -> None:
        """Ask the instance from now on whether it is ready, if it has an answer; call it once the instance is warm."""
        check = getattr(self._instance, "ready_check", None)
        if check is not None:
            readiness = self._readiness = Readiness(model)
            self._watch = ReadyWatch(check, model, readiness.began, readiness.ended)
            await asyncio.to_thread(readiness.await_first)

    def problem(self) -> str:
        """See `Executor.problem`."""
        return "" if self._readiness is None else self._readiness.problem()

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function on the instance's thread, after the work that it has."""
        return await call_on(self._work.put, function)

    def deliver_to(self, completed: Completed) -> None:
        """See `Executor.deliver_to`."""
        self._completed = completed

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

    async def attempt(self, requests: Sequence[InferRequest]) -> Sequence[Any]:
        """See `Executor.attempt`."""
        self.held += 1  # so that no other batch runs on the event loop meanwhile
        try:
            return await self.call(lambda: self._attempt(requests))
        finally:
            self.held -= 1

    def kill(self) -> None:
        """See `Executor.kill`: does nothing, since a thread cannot be killed."""

    async def close(self) -> None:
        """See `Executor.close`; the thread ends."""
        if self._watch is not None:
            self._watch.stop()
        try:
            await self.call(self._free)
        finally:
            self._work.put(None)

    def _attempt(self, requests: Sequence[InferRequest]) -> Sequence[Any]:
        assert self._instance is not None
        return self._instance.split(requests, self._instance.run(self._instance.prepare(requests)))

    def _free(self) -> None:
        instance, self._instance, self._keep = self._instance, None, _unchanged
        if instance is not None:
            instance.close()

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            if isinstance(work, Job):
                self._run(work)
                assert self._completed is not None
                self._completed.push(work)
            else:
                work()
            del work  # an idle instance must not keep its last batch in memory

    def _run(self, job: Job) -> None:
        now = self._clock()
        if job.withdrawn or too_late(job.not_after, now):
            job.stale = True
            return
        assert self._instance is not None
        job.compute_start = now
        slot = self.journal_slot if job.note else None
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


def _unchanged(raw: Any) -> Any:
    """For an instance without `keep`: later runs never write to earlier results."""
    return raw


def next_free(executors: Sequence[Executor]) -> Executor | None:
    """The executor that holds the fewest jobs; None if all hold `DEPTH`."""
    best = min(executors, key=_held) if len(executors) > 1 else executors[0]
    return best if best.held < DEPTH else None


def _held(executor: Executor) -> int:
    return executor.held
