"""One type per message that crosses a process boundary. Pure.

Nobody changes a message once it is published or answered: in one process the gateway and the worker hold the same object. Its
tensors are read-only, so that a model cannot write to its input either.

Times are seconds since the epoch on the store's clock (`protocol.runtime.clock`), as float; on the wire integer microseconds.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any, Final

from protocol.errors import Code, FleetError
from protocol.tensors import Tensor
from protocol.texts import shortened

Parameter = str | int | bool | float
Parameters = dict[str, Parameter]


class Lane(enum.StrEnum):
    """Which of a model version's two queues a request waits in."""

    INTERACTIVE = "interactive"
    """A caller waits for it."""
    BATCH = "batch"
    """It runs in capacity that interactive requests leave free, and may have more rows than the model's `max_batch_size`."""


ANONYMOUS = "-"
"""The principal of an unauthenticated caller."""


@dataclasses.dataclass(slots=True)
class InferRequest:
    """One inference request, resolved to a concrete model version.

    Attributes:
        id: the fleet id, unique within the principal; never the caller's label.
        model: model name.
        version: model version, decimal.
        inputs: the tensors, in the caller's order.
        outputs: names of the wanted outputs; empty for all.
        parameters: custom parameters, passed to the model.
        label: the `id` of the V2 body: echoed and logged, never a key.
        principal: the caller.
        reply_to: channel to wake when the answer is stored, or `kafka:` and the topic of answers that gets it; "" for none.
        accept: content type of an answer that goes to a topic: `codec.JSON` or `codec.MSGPACK` as text; "" for the request's own.
        deadline: no batch with this request starts after it; None for never.
        priority: 1 is the highest; 0 asks for the model's default.
        timeout: seconds it may wait in the worker's queue (V2's `timeout` parameter); 0 for the model's default.
        traceparent: W3C trace context, or "".
        claimed: whether the accepting gateway has claimed the result stream (keyed and asynchronous calls).
        accepted: when the gateway had read the request, or the producer's timestamp.
        published: when it was handed to the bus.
        held: bytes of memory that its tensors keep, if they are views of a larger body; not on the wire.
    """

    id: str
    model: str
    version: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] = ()
    parameters: Parameters = dataclasses.field(default_factory=dict)
    label: str = ""
    principal: str = ANONYMOUS
    reply_to: str = ""
    deadline: float | None = None
    priority: int = 0
    timeout: float = 0.0
    traceparent: str = ""
    claimed: bool = False
    accepted: float = 0.0
    published: float = 0.0
    held: int = 0
    accept: str = ""


SHOWN_DIGEST = 12
"""Characters of a digest that distinguish versions of a model's files."""


@dataclasses.dataclass(slots=True)
class Timing:
    """When each step happened, and in which batch. The time of a step that did not happen is 0.

    Attributes:
        accepted, published: see `InferRequest`.
        fetched: the worker's consumer handed the record over.
        enqueued: it joined the batcher's queue.
        released: its batch was formed.
        compute_start, compute_end: the backend ran.
        emitted: the answer went to the result store.
        reason: why the batch was released: a value of `workers.batching.types.Release`.
        batch_rows: rows in the batch that it ran in.
        batch_requests: requests in that batch.
        attempt: 1 for the first delivery, more after redelivery.
        worker: the worker's id.
        digest: the first `SHOWN_DIGEST` characters of the digest of the files that ran; "" if nothing ran.
        computed: seconds between `compute_start` and `compute_end` in which the backend ran; 0 for all of them. Only a record whose
            rows ran in several batches has less.
    """

    accepted: float = 0.0
    published: float = 0.0
    fetched: float = 0.0
    enqueued: float = 0.0
    released: float = 0.0
    compute_start: float = 0.0
    compute_end: float = 0.0
    emitted: float = 0.0
    reason: str = ""
    batch_rows: int = 0
    batch_requests: int = 0
    attempt: int = 1
    worker: str = ""
    digest: str = ""
    computed: float = 0.0


@dataclasses.dataclass(slots=True)
class Failure:
    """Why there is no result."""

    code: Code
    message: str

    def __post_init__(self) -> None:
        self.message = shortened(str(self.message))

    def error(self) -> FleetError:
        """The failure as an exception."""
        return FleetError(self.message, code=self.code)


@dataclasses.dataclass(slots=True)
class InferReply:
    """The terminal answer to one request: outputs or a failure, never both.

    Attributes:
        woken: when the gateway received it; set there, not on the wire.
    """

    model: str
    version: str
    label: str = ""
    outputs: tuple[Tensor, ...] = ()
    parameters: Parameters = dataclasses.field(default_factory=dict)
    failure: Failure | None = None
    timing: Timing = dataclasses.field(default_factory=Timing)
    woken: float = 0.0


class ModelState(enum.StrEnum):
    """Triton's model states, as the repository index shows them."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclasses.dataclass(frozen=True, slots=True)
class Announcement:
    """One record of the catalogue topic: a model version exists, with this configuration.

    Attributes:
        config: the completed configuration in Triton's JSON form (`ModelConfig.to_json`).
        digest: sha256 of the version's files and configuration.
        reason: why it is UNAVAILABLE; empty otherwise.
        at: when it was announced.
        partitions: how many partitions its topic has.
        labels: by output, the names of its classes, for the classification extension.
    """

    model: str
    version: str
    state: ModelState
    config: dict[str, Any]
    digest: str
    reason: str = ""
    at: float = 0.0
    partitions: int = 1
    labels: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


Runs = tuple[tuple[int, int, int], ...]
"""Batches, their rows and their nanoseconds in all, by size class."""


@dataclasses.dataclass(slots=True)
class ModelLoad:
    """The state of one model version in one worker's heartbeat.

    Attributes:
        partitions: the partitions it owns.
        queued_rows, queued_requests: waiting in its batcher.
        running_rows: in batches that are being executed.
        lag: records in its partitions that are not yet committed.
        oldest_age: seconds since the oldest waiting request was published; 0 if none waits.
        seconds_per_row: measured, by "<shape class>/<batch size>"; only in an answer to an ask.
        statistics: see `protocol.model_stats.ModelStats`; only in an answer to an ask, and in every heartbeat of a
            worker of the version before.
        digest: of the files that it serves; "" if it serves none.
        batch_partitions, batch_lag, batch_queued_rows: the same of the batch lane; the other numbers are without it, except
            `running_rows`, which has the rows of both.
        unready: why it is not ready although it takes requests: its `is_ready` says so, or its processes died; "" if it is ready.
        runs: how long batches took since it was loaded; see `protocol.model_stats.merge_runs`.
        executed: rows that it has answered with success since then.
        last_inference: when it last did, in whole seconds since the epoch; 0 for never.
        unanswered: requests that it has taken in and not answered; None if the worker is of a version that does not say.
        unread: records in its partitions that it has not fetched.
        batch_unanswered, batch_unread, batch_oldest_age: the same of the batch lane.
        batch_running_rows: those of `running_rows` that are the batch lane's.
    """

    model: str
    version: str
    state: ModelState
    partitions: tuple[int, ...] = ()
    queued_rows: int = 0
    queued_requests: int = 0
    running_rows: int = 0
    lag: int = 0
    oldest_age: float = 0.0
    seconds_per_row: dict[str, float] = dataclasses.field(default_factory=dict)
    statistics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    digest: str = ""
    batch_partitions: tuple[int, ...] = ()
    batch_lag: int = 0
    batch_queued_rows: int = 0
    unready: str = ""
    runs: Runs = ()
    executed: int = 0
    last_inference: int = 0
    unanswered: int | None = None
    unread: int = 0
    batch_unanswered: int = 0
    batch_unread: int = 0
    batch_oldest_age: float = 0.0
    batch_running_rows: int = 0


class Outcome(enum.StrEnum):
    """Why a worker does not do what the desired state of a model says."""

    NONE = ""
    ABSENT = "absent"
    """The model is not in its repository: another worker should take its place."""
    REFUSED = "refused"
    """It has no room for the model: another worker should take its place."""
    FAILED = "failed"
    """A version could not be loaded."""


@dataclasses.dataclass(frozen=True, slots=True)
class ControlProgress:
    """How far one worker is with the desired state of one model (`protocol.control.DesiredModel`).

    Attributes:
        generation: offset of the record that it applies or has applied.
        state: LOADING or UNLOADING while it works, READY once all chosen versions serve, UNAVAILABLE otherwise.
        reason: why it is UNAVAILABLE, such as "unloaded", the failure of a load, or why this worker does not serve it.
        done: whether the worker will do no more for this generation.
        outcome: why it does not serve the model although a record says so.
    """

    model: str
    generation: int
    state: ModelState
    reason: str = ""
    done: bool = False
    outcome: Outcome = Outcome.NONE


MAX_UNLOADED: Final = 1000
"""Names of unloaded models in a heartbeat."""


@dataclasses.dataclass(slots=True)
class Heartbeat:
    """A worker's heartbeat, sent every 500 ms.

    Attributes:
        worker: the worker's id, also its `group.instance.id`.
        incarnation: changes with every start of the process.
        host, pid: of its process.
        at: when it was sent, on the store's clock.
        members: consumer group -> member id, so that a peer can send LeaveGroup for a dead worker.
        draining: it is shutting down and takes no new requests.
        asked: the asks (`Directory.ask`) received before the numbers were read, the newest last; None if it does not listen.
        control: by model, how far it is with the desired state; only models that have a record.
        memory: (bytes that its models may use, bytes that they use); (0, 0) if it has no limit.
        mode: its `--model-control-mode`; only one that is "explicit" follows the desired state. "" if it does not say.
        unloaded: models of its repositories that it does not serve, with explicit control; at most `MAX_UNLOADED`.
        restarts: how often its supervisor has started it again.
    """

    worker: str
    incarnation: str
    host: str
    pid: int
    at: float
    models: Sequence[ModelLoad] = ()
    members: dict[str, str] = dataclasses.field(default_factory=dict)
    draining: bool = False
    asked: tuple[str, ...] | None = None
    control: tuple[ControlProgress, ...] = ()
    memory: tuple[int, int] = (0, 0)
    mode: str = ""
    unloaded: tuple[str, ...] = ()
    restarts: int = 0


@dataclasses.dataclass(slots=True)
class Pulse:
    """The sign of life of one worker: all that its peers read of it twice a second.

    Attributes:
        worker, incarnation, at, draining: see `Heartbeat`.
        listens: whether it answers asks.
        description, loads: revisions of the other parts of its heartbeat (`protocol.heartbeat_parts`); b"" if it has no parts.
    """

    worker: str
    incarnation: str
    at: float
    draining: bool = False
    listens: bool = False
    description: bytes = b""
    loads: bytes = b""


def pulse_of(beat: Heartbeat) -> Pulse:
    """The sign of life in a heartbeat."""
    return Pulse(beat.worker, beat.incarnation, beat.at, beat.draining, beat.asked is not None)
