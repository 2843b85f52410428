"""What a run will do: every call and every fault. `planner` makes it. Pure."""

from __future__ import annotations

import dataclasses
import enum
from typing import Final


class CallKind(enum.StrEnum):
    """How a request comes in."""

    PLAIN = "plain"
    KEYED = "keyed"
    SHARED = "shared"
    """One key, several callers at once, on several gateways."""
    ASYNC = "async"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    """Asynchronous, and taken back after a moment."""
    DIRECT = "direct"
    """A record that a producer writes to Kafka itself, under a principal of its own."""
    DUPLICATE = "duplicate"
    """The same, written more than once."""
    GARBAGE = "garbage"
    """Bytes that are no request."""
    POISON = "poison"
    """A request that its model raises on, or that ends the model's process."""


class FaultKind(enum.StrEnum):
    """What is broken."""

    WORKER_KILL = "worker-kill"
    """SIGKILL of the process that runs models, in the middle of a batch."""
    CHILD_KILL = "child-kill"
    """SIGKILL of a process that holds a model instance only."""
    MACHINE_KILL = "machine-kill"
    """SIGKILL of a worker, its supervisor and all of their children; started again later."""
    WORKER_STOP = "worker-stop"
    """SIGSTOP of a worker's process for a moment, then SIGCONT."""
    ZOMBIE = "zombie"
    """SIGSTOP of a whole worker for more than twice the session timeout."""
    GATEWAY_KILL = "gateway-kill"
    GATEWAY_STOP = "gateway-stop"
    REDIS_DELAY = "redis-delay"
    """Added latency between one process, or all, and Redis."""
    REDIS_DROP = "redis-drop"
    """Connections to Redis cut, and refused for a while."""
    CUT_KILL = "cut-kill"
    """A worker's connections to Redis cut and refused for a second, and then SIGKILL of all of it: its answers never arrive."""
    REBALANCE = "rebalance"
    """A worker more joins, and leaves again."""
    KAFKA_DELAY = "kafka-delay"
    """Added latency between one process, or all, and the brokers."""
    KAFKA_DROP = "kafka-drop"
    """Connections to the brokers cut, and refused for a while."""
    CLOCK_SKEW = "clock-skew"
    """A process is ended and started again with a clock that is minutes off."""


RAISES: Final = -1
DIES: Final = -2
"""What poison asks of the model instead of milliseconds."""
MODELS: Final = ("checked", "brisk")
GATEWAYS: Final = 2
WORKERS: Final = 2
PRINCIPALS: Final = ("shop", "desk")
COMMAND: Final = "command:"
"""Before the name of a fault that the user supplies."""
ALL_FAULTS: Final = tuple(kind.value for kind in FaultKind)
DELAYS: Final = frozenset({FaultKind.REDIS_DELAY, FaultKind.KAFKA_DELAY})
DROPS: Final = frozenset({FaultKind.REDIS_DROP, FaultKind.KAFKA_DROP})
PAD: Final = 64 * 1024
"""Bytes that every HTTP call carries besides: a process that keeps one request's bytes per request would show it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Attributes:
        number: its input, unique in the run; the right answer is a function of it.
        at: seconds since the start.
        millis: how long its batch runs; or `RAISES`, or `DIES`.
        gateway: which one is asked first.
        limit: seconds: its deadline, or how long it is left before it is cancelled.
        copies: how many callers, or how many times a record is written.
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
    """One thing that goes wrong.

    Attributes:
        at: seconds since the start.
        kind: a `FaultKind`'s value, or `command:NAME`.
        target: a process ("worker-0", "gateway-1"), or "all".
        lasts: seconds until it is mended.
        amount: seconds of added latency, or by which a clock is wrong.
    """

    at: float
    kind: str
    target: str
    lasts: float
    amount: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """All of a run."""

    seed: int
    seconds: float
    session_timeout: float
    calls: tuple[Call, ...]
    faults: tuple[Fault, ...]
