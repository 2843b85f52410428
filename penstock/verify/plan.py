"""What a run will do: every call and every fault, as a pure function of the seed and the settings.

Invariant: equal arguments give equal plans, on every machine, so a failing seed replays. When things happen on the clock is the
operating system's; what is sent, and what is broken around it, is not.
"""

from __future__ import annotations

import dataclasses
import enum
import random
from collections.abc import Iterator, Sequence
from typing import Final


class Kind(enum.StrEnum):
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


WEIGHTS: Final[dict[Kind, int]] = {
    Kind.PLAIN: 400, Kind.KEYED: 120, Kind.SHARED: 60, Kind.ASYNC: 140, Kind.DEADLINE: 80, Kind.CANCELLED: 60, Kind.DIRECT: 80,
    Kind.DUPLICATE: 40, Kind.GARBAGE: 20, Kind.POISON: 5,
}  # fmt: skip
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

_PER_SECOND: Final = 120
_SHORTEST: Final = 40.0
_EVERY: Final = 40.0
"""Seconds in which each kind of fault comes once."""
_FIRST: Final = frozenset({FaultKind.REDIS_DROP, FaultKind.CUT_KILL})
_TWICE: Final = frozenset({FaultKind.WORKER_KILL, FaultKind.REDIS_DROP})
"""What proves the most."""
_TRIES: Final = 50
_STARTS_WITHIN: Final = 3.0
"""Seconds after which a process that was started again has work."""
_OF_ONE_PROCESS: Final = frozenset(
    {
        FaultKind.WORKER_KILL, FaultKind.CHILD_KILL, FaultKind.MACHINE_KILL, FaultKind.WORKER_STOP, FaultKind.ZOMBIE,
        FaultKind.GATEWAY_KILL, FaultKind.GATEWAY_STOP, FaultKind.CUT_KILL, FaultKind.REDIS_DELAY, FaultKind.REDIS_DROP,
    }
)  # fmt: skip


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
    kind: Kind
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
        amount: seconds of added latency.
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


def make(seed: int, requests: int, faults: Sequence[str], session_timeout: float) -> Plan:
    """The plan of a seed.

    Args:
        seed: any number.
        requests: how many calls.
        faults: kinds; each comes about every `_EVERY` seconds, and at least once.
        session_timeout: seconds, the fleet's.
    """
    chance = random.Random(f"penstock {seed}")  # noqa: S311  # a plan is to be repeated, not to be kept from guessing
    seconds = max(_SHORTEST, requests / _PER_SECOND)
    if FaultKind.ZOMBIE in faults:
        seconds = max(seconds, 2 * session_timeout + 10)
    calls = sorted(_calls(chance, requests, seconds), key=lambda call: (call.at, call.number))
    made = sorted(_faults(chance, faults, seconds, session_timeout), key=lambda fault: (fault.at, fault.kind))
    return Plan(seed, seconds, session_timeout, tuple(calls), tuple(made))


def _calls(chance: random.Random, requests: int, seconds: float) -> Iterator[Call]:
    kinds = chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=requests)
    burst = 0.0
    for number, kind in enumerate(kinds, 1):
        # One in eight begins a moment in which others come, too: batches form of what arrives together.
        if number == 1 or chance.random() < 0.125:
            burst = round(chance.uniform(0, seconds), 3)
        at = burst if chance.random() < 0.3 else round(chance.uniform(0, seconds), 3)
        yield _call(chance, number, at, kind)


def _call(chance: random.Random, number: int, at: float, kind: Kind) -> Call:
    model, gateway = chance.choice(MODELS), chance.randrange(GATEWAYS)
    millis = chance.choice((0, 1, 2, 5, 20, 50))
    limit, copies, principal = 0.0, 1, ""
    if kind is Kind.DEADLINE:
        limit = chance.choice((0.02, 0.05, 0.1, 0.3, 1.0))
    elif kind is Kind.CANCELLED:
        limit = chance.choice((0.0, 0.005, 0.02, 0.1))
    elif kind is Kind.POISON:
        millis = chance.choice((RAISES, DIES))
    elif kind in {Kind.SHARED, Kind.DUPLICATE}:
        copies = chance.randint(2, 4)
    if kind in {Kind.DIRECT, Kind.DUPLICATE}:
        principal = chance.choice(PRINCIPALS)
    return Call(number, at, kind, model, millis, gateway, limit, copies, principal)


def _faults(chance: random.Random, kinds: Sequence[str], seconds: float, session_timeout: float) -> Iterator[Fault]:
    """One after the other; each finds its place among those before it, the longest first."""
    made: list[Fault] = []
    if FaultKind.ZOMBIE in kinds:
        lasts = 2 * session_timeout + 1
        made.append(Fault(round(chance.uniform(2, seconds - lasts - 4), 3), FaultKind.ZOMBIE, _worker(chance), lasts))
    for kind in sorted(kinds, key=_FIRST.__contains__, reverse=True):
        times = max(1, round(seconds / _EVERY)) * (2 if kind in _TWICE else 1)
        for _ in range(times if kind != FaultKind.ZOMBIE else 0):
            made.append(_placed(chance, kind, seconds, made))
    yield from made


def _placed(chance: random.Random, kind: str, seconds: float, others: Sequence[Fault]) -> Fault:
    """Where its target neither stands still nor is just being started, so that it is not done in vain; if there is such a place."""
    for _ in range(_TRIES):
        fault = _fault(chance, kind, round(chance.uniform(0.1, 0.85) * seconds, 3))
        first_drop = kind == FaultKind.REDIS_DROP and not any(other.kind == kind for other in others)
        aimed = fault.target.startswith("worker") or not first_drop
        if aimed and not any(_in_vain(fault, other) for other in others):
            break
    return fault


def _in_vain(fault: Fault, other: Fault) -> bool:
    apart = max(fault.at - other.at - other.lasts, other.at - fault.at - fault.lasts)
    return {fault.kind, other.kind} <= _OF_ONE_PROCESS and other.target == fault.target and apart < _STARTS_WITHIN


def _fault(chance: random.Random, kind: str, at: float) -> Fault:
    lasts = round(chance.uniform(0.5, 3.0), 2)
    if kind in {FaultKind.REDIS_DELAY, FaultKind.REDIS_DROP}:
        # Workers first: what they write is what must not be lost.
        target = chance.choice((_worker(chance), _worker(chance), f"gateway-{chance.randrange(GATEWAYS)}", "all"))
        amount = round(chance.uniform(0.01, 0.2), 3) if kind == FaultKind.REDIS_DELAY else 0.0
        return Fault(at, kind, target, lasts, amount)
    if kind in {FaultKind.GATEWAY_KILL, FaultKind.GATEWAY_STOP}:
        return Fault(at, kind, f"gateway-{chance.randrange(GATEWAYS)}", lasts)
    if kind == FaultKind.REBALANCE:
        return Fault(at, kind, f"worker-{WORKERS}", round(chance.uniform(2.0, 6.0), 2))
    if kind.startswith(COMMAND):
        return Fault(at, kind, "all", 0.0)
    return Fault(at, kind, _worker(chance), lasts)


def _worker(chance: random.Random) -> str:
    return f"worker-{chance.randrange(WORKERS)}"
