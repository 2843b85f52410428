"""The plan of a run: every call and every fault. `planner` makes it. Pure."""

from __future__ import annotations

import dataclasses
import enum
from typing import Final


class CallKind(enum.StrEnum):
    """How a request is sent."""

    PLAIN = "plain"
    KEYED = "keyed"
    SHARED = "shared"
    """One key from several callers at once, on several gateways."""
    ASYNC = "async"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    """Asynchronous, and cancelled after a moment."""
    DIRECT = "direct"
    """A record that a producer writes directly to Kafka, under its own principal."""
    DUPLICATE = "duplicate"
    """A direct record that is written more than once."""
    GARBAGE = "garbage"
    """Bytes that are not a request."""
    POISON = "poison"
    """A request that makes the model raise, or kills its process."""


class FaultKind(enum.StrEnum):
    """The faults of the checker."""

    WORKER_KILL = "worker-kill"
    """SIGKILL of the process that runs models, in the middle of a batch."""
    CHILD_KILL = "child-kill"
    """SIGKILL of a child process that holds one model instance."""
    MACHINE_KILL = "machine-kill"
    """SIGKILL of a worker, its supervisor and all of their children; started again later."""
    WORKER_STOP = "worker-stop"
    """SIGSTOP of a worker's process, then SIGCONT."""
    ZOMBIE = "zombie"
    """SIGSTOP of a whole worker for more than twice the session timeout."""
    GATEWAY_KILL = "gateway-kill"
    GATEWAY_STOP = "gateway-stop"
    REDIS_DELAY = "redis-delay"
    """Added latency between one process (or all) and Redis."""
    REDIS_DROP = "redis-drop"
    """Connections to Redis closed, and refused for a while."""
    CUT_KILL = "cut-kill"
    """A worker's connections to Redis closed and refused for a second, then SIGKILL of the worker: its answers never arrive."""
    REBALANCE = "rebalance"
    """One more worker joins, and leaves again."""
    KAFKA_DELAY = "kafka-delay"
    """Added latency between one process (or all) and the brokers."""
    KAFKA_DROP = "kafka-drop"
    """Connections to the brokers closed, and refused for a while."""
    CLOCK_SKEW = "clock-skew"
    """A process is killed and restarted with a clock that is minutes wrong."""


RAISES: Final = -1
DIES: Final = -2
"""Values of `Call.millis` that poison carries."""
MODELS: Final = ("checked", "brisk")
GATEWAYS: Final = 2
WORKERS: Final = 2
PRINCIPALS: Final = ("shop", "desk")
COMMAND: Final = "command:"
"""Prefix of the name of a user's own fault."""
ALL_FAULTS: Final = tuple(kind.value for kind in FaultKind)
DELAYS: Final = frozenset({FaultKind.REDIS_DELAY, FaultKind.KAFKA_DELAY})
DROPS: Final = frozenset({FaultKind.REDIS_DROP, FaultKind.KAFKA_DROP})
PAD: Final = 64 * 1024
"""Bytes of padding in every HTTP call: a process that keeps requests' bytes visibly grows."""


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Attributes:
        number: its input, unique in the run; the right answer is a function of it.
        at: seconds since the start.
        millis: how long its batch runs, or `RAISES`, or `DIES`.
        gateway: the number of the gateway that is called first.
        limit: its deadline, or the time until it is cancelled, in seconds.
        copies: the number of callers, or of times that the record is written.
        principal: of a record that a producer writes.
    """

    number: int
    at: float
    kind: CallKind
    model: str
    millis: int
    gateway: int
    limit: float = 0.0
    copies: int = 1
    principal: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        at: seconds since the start.
        kind: a `FaultKind`'s value, or `command:NAME`.
        target: a process ("worker-0", "gateway-1"), or "all".
        lasts: seconds until it is undone.
        amount: added latency, or error of the clock, in seconds.
    """

    at: float
    kind: str
    target: str
    lasts: float
    amount: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a run."""

    seed: int
    seconds: float
    session_timeout: float
    calls: tuple[Call, ...]
    faults: tuple[Fault, ...]
