"""Entries, jobs, the executors that run them, and their errors.

Invariant: a job's fields are written by one side at a time: by the event loop until `Executor.submit`, then by the instance until
the job comes back through `Completed`; only `withdrawn` may be set by the loop in between. A job whose deadline has passed or that
was withdrawn before its turn comes back with `stale` set and has not run.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from protocol.errors import Code, FleetError, ModelFailed
from protocol.messages import Failure, InferRequest
from protocol.ports import Record
from workers.backends.tracebacks import text_of
from workers.batching.types import Batch, Item


@dataclasses.dataclass(slots=True, eq=False)
class Entry(Item[InferRequest]):
    """A batcher's item with the record that it came from.

    Attributes:
        partition, offset: of the record.
        token: of the assignment under which it was taken in; see `offsets.OffsetTracker`.
        fetched: when the consumer handed it over.
        needs_attempt: it was claimed by a gateway or may have been delivered before: an attempt is begun before it runs.
        problem: why the model cannot take it; this is its answer.
        attempt: 1 for the first delivery.
        cancelled: the caller no longer wants it; it is not run if it has not started.
        job: its batch, once it is in one.
        followers: later records of the same request, which wait until this one is answered.
        early_followers: how many of the followers, from the first, were here before an attempt of this entry began.
        record: as fetched, for the dead letters.
        run_alone: an attempt was begun in an earlier delivery, so it may have killed that worker.
        attempt_stored: the store has this attempt.
        cache_key: under which its outputs are kept in the response cache; b"" if they are not.
        looked_up: seconds that its look-up in the response cache took.
        sliced: it is some rows of a record of the batch lane (`serving.rows.Slice`): its outcome goes to that record, not to the
            store.
    """

    sliced: ClassVar[bool] = False

    partition: int = 0
    offset: int = 0
    token: int = 0
    fetched: float = 0.0
    needs_attempt: bool = False
    problem: Failure | None = None
    attempt: int = 1
    cancelled: bool = False
    job: Job | None = None
    followers: collections.deque[Entry] | None = None
    early_followers: int = 0
    record: Record | None = None
    run_alone: bool = False
    attempt_stored: bool = False
    cache_key: bytes = b""
    looked_up: float = 0.0


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


class Completed(Protocol):
    """Receives jobs that have run."""

    def push(self, job: Job) -> None:
        """From any thread: the job has run."""


class Executor(Protocol):
    """One loaded instance, in a thread of this process or in a child process.

    Attributes:
        name: of the instance, for messages and metrics.
        held: jobs given to it (or about to be) that have not come back; at most `DEPTH`.
        loop_safe: see `Instance.loop_safe`.
        isolated: it is a process of its own, so that a crash of the model costs only that; its jobs then come back with
            `InstanceDied`, and it restarts on its own.
        restarts: how often it was restarted; 0 if it is not isolated.
    """

    name: str
    held: int
    loop_safe: bool
    isolated: bool
    restarts: int

    def deliver_to(self, completed: Completed) -> None:
        """Set the receiver of jobs that have run; before the first `submit`."""

    def prepare(self, requests: Sequence[InferRequest]) -> Any:
        """See `Instance.prepare`; on any thread."""

    def submit(self, job: Job) -> None:
        """Run the prepared job after earlier ones; never blocks."""

    def run_here(self, job: Job) -> None:
        """Run the prepared job now, on this thread, and note its CPU time; only if `loop_safe` and no other job is held."""

    def split(self, requests: Sequence[InferRequest], raw: Any) -> Sequence[Any]:
        """See `Instance.split`; on any thread."""

    async def attempt(self, requests: Sequence[InferRequest]) -> Sequence[Any]:
        """The outcomes of a batch that no caller waits for, after the jobs before it. A failure blames nobody and is not logged.

        Raises:
            Exception: whatever the model raised; `InstanceDied`, after which the instance restarts.
        """

    def problem(self) -> str:
        """Why the instance is not ready: its process is gone, or its model's `is_ready` says so; "" if it is."""

    def kill(self) -> None:
        """End the process as hung: the job that runs in it comes back with `InstanceDied`. Only if `isolated`; else nothing."""

    async def close(self) -> None:
        """Free the instance once its jobs have run."""


class InstanceDied(FleetError):
    """The process of an instance ended, or was killed as hung, with a batch in it.

    Attributes:
        signal: number of the signal that killed it, if one did.
        exit_code: its exit code, if it exited on its own.
        hung: the worker killed it (`Executor.kill`).
        trace: where it crashed, as Python's faulthandler printed it; "" if that is not known.
        place: the line of the model's author in it; "" if that is not known.
    """

    code = Code.MODEL_FAILED
    wire_name: ClassVar[str] = "workers.execution.InstanceDied"
    """In dead letters, whatever this module is called."""

    def __init__(
        self,
        message: str,
        *,
        signal: int | None = None,
        exit_code: int | None = None,
        hung: bool = False,
        trace: str = "",
        place: str = "",
    ) -> None:
        super().__init__(message)
        self.trace = trace
        self.place = place
        self.signal = signal
        self.exit_code = exit_code
        self.hung = hung


class ModelRaised(ModelFailed):
    """The model raised in a process of its own, where the exception object stays; the message is its `tracebacks.text_of`.

    Attributes:
        kinds: the names of the exception's class and its bases, its own first.
        trace: see `tracebacks.trace_of`.
    """

    wire_name: ClassVar[str] = "workers.execution.ModelRaised"
    """In dead letters, whatever this module is called."""

    def __init__(self, message: str, kinds: Sequence[str], *, code: Code = Code.MODEL_FAILED, trace: str = "") -> None:
        super().__init__(message, code=code)
        self.kinds = tuple(kinds)
        self.trace = trace


def failure_message(name: str, error: BaseException) -> str:
    """The message for callers when a batch failed on an instance, in Triton's words."""
    return f"Failed to process the request(s) for model '{name}', message: {text_of(error)}"
