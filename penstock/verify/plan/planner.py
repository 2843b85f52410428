"""Makes the plan of a seed. Pure.

Invariant: equal arguments give equal plans on every machine, so a failing seed can be replayed. Only the exact timing of a run is
left to the operating system.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Final

from penstock.verify.plan.plan import (
    COMMAND,
    DELAYS,
    DIES,
    DROPS,
    GATEWAYS,
    MODELS,
    PRINCIPALS,
    RAISES,
    WORKERS,
    Call,
    CallKind,
    Fault,
    FaultKind,
    Plan,
)

WEIGHTS: Final[dict[CallKind, int]] = {
    CallKind.PLAIN: 400, CallKind.KEYED: 120, CallKind.SHARED: 60, CallKind.ASYNC: 140, CallKind.DEADLINE: 80,
    CallKind.CANCELLED: 60, CallKind.DIRECT: 80, CallKind.DUPLICATE: 40, CallKind.GARBAGE: 20, CallKind.POISON: 3,
}  # fmt: skip

_PER_SECOND: Final = 100
_SHORTEST: Final = 40.0
_EVERY: Final = 40.0
"""Seconds in which each kind of fault occurs once."""
_MEASURED: Final = (
    (1.5, FaultKind.WORKER_KILL, 0), (6.5, FaultKind.CHILD_KILL, 1), (9.5, FaultKind.CHILD_KILL, 1),
    (12.5, FaultKind.WORKER_KILL, 1),
)  # fmt: skip
"""Time, kind and worker of faults without any other nearby, so that callers' waits have one cause."""
_MEASURED_FOR: Final = 17.5
_AFTER_ZOMBIE: Final = 8.0
_FIRST: Final = frozenset({FaultKind.REDIS_DROP, FaultKind.CUT_KILL})
_TWICE: Final = frozenset({FaultKind.WORKER_KILL, FaultKind.REDIS_DROP})
"""The most revealing faults."""
_TRIES: Final = 50
_STARTS_WITHIN: Final = 5.0
"""Seconds after which a restarted process has work."""
_OF_ONE_PROCESS: Final = frozenset(FaultKind) - {FaultKind.REBALANCE}


def make_plan(seed: int, requests: int, faults: Sequence[str], session_timeout: float) -> Plan:
    """The plan of a seed.

    Args:
        seed: any number.
        requests: the number of calls.
        faults: kinds; each occurs about every `_EVERY` seconds, and at least once.
        session_timeout: the fleet's, in seconds.
    """
    chance = random.Random(f"penstock {seed}")  # noqa: S311  # a plan must be repeatable, not hard to guess
    seconds = max(_SHORTEST, requests / _PER_SECOND)
    measured = list(_measured(faults))
    quiet = _MEASURED_FOR if measured else 0.0
    if FaultKind.ZOMBIE in faults:
        seconds = max(seconds, quiet + _zombie_lasts(session_timeout) + _AFTER_ZOMBIE)
    calls = sorted(_calls(chance, requests, seconds, quiet), key=lambda call: (call.at, call.number))
    others = _faults(chance, faults, (max(quiet, 0.1 * seconds), seconds), session_timeout)
    made = sorted([*measured, *others], key=lambda fault: (fault.at, fault.kind))
    return Plan(seed, seconds, session_timeout, tuple(calls), tuple(made))


def _calls(chance: random.Random, requests: int, seconds: float, quiet: float) -> Iterator[Call]:
    kinds = chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=requests)
    burst = 0.0
    for number, kind in enumerate(kinds, 1):
        # One in eight starts a burst, so that batches form.
        if number == 1 or chance.random() < 0.125:
            burst = round(chance.uniform(0, seconds), 3)
        at = burst if chance.random() < 0.3 else round(chance.uniform(0, seconds), 3)
        if kind is CallKind.POISON:  # it is a fault too
            at = round(chance.uniform(quiet, seconds), 3)
        yield _call(chance, number, at, kind)


def _call(chance: random.Random, number: int, at: float, kind: CallKind) -> Call:
    model, gateway = chance.choice(MODELS), chance.randrange(GATEWAYS)
    millis = chance.choice((0, 1, 2, 5, 20, 50))
    limit, copies, principal = 0.0, 1, ""
    if kind is CallKind.DEADLINE:
        limit = chance.choice((0.02, 0.05, 0.1, 0.3, 1.0))
    elif kind is CallKind.CANCELLED:
        limit = chance.choice((0.0, 0.005, 0.02, 0.1))
    elif kind is CallKind.POISON:
        millis = chance.choice((RAISES, DIES))
    elif kind in {CallKind.SHARED, CallKind.DUPLICATE}:
        copies = chance.randint(2, 4)
    if kind in {CallKind.DIRECT, CallKind.DUPLICATE}:
        principal = chance.choice(PRINCIPALS)
    return Call(number, at, kind, model, millis, gateway, limit, copies, principal)


def _measured(kinds: Sequence[str]) -> Iterator[Fault]:
    for at, kind, worker in _MEASURED:
        if kind in kinds:
            yield Fault(at, kind.value, f"worker-{worker}", 0.0)


def _zombie_lasts(session_timeout: float) -> float:
    return 2 * session_timeout + 1


def _faults(
    chance: random.Random, kinds: Sequence[str], within: tuple[float, float], session_timeout: float
) -> Iterator[Fault]:
    """Each fault is placed among those before it, the longest first."""
    made: list[Fault] = []
    begin, seconds = within
    if FaultKind.ZOMBIE in kinds:
        lasts = _zombie_lasts(session_timeout)
        at = round(chance.uniform(begin, seconds - lasts - 4), 3)
        made.append(Fault(at, FaultKind.ZOMBIE.value, _worker(chance), lasts))
    for kind in sorted(kinds, key=_FIRST.__contains__, reverse=True):
        times = max(1, round(seconds / _EVERY)) * (2 if kind in _TWICE else 1)
        for _ in range(times if kind != FaultKind.ZOMBIE else 0):
            made.append(_placed(chance, kind, (begin, 0.85 * seconds), made))
    yield from made


def _placed(chance: random.Random, kind: str, within: tuple[float, float], others: Sequence[Fault]) -> Fault:
    """A fault at a time at which its target is neither stopped nor starting, or the nearest to that of several tries."""
    best: tuple[float, Fault] | None = None
    first_drop = kind == FaultKind.REDIS_DROP and not any(other.kind == kind for other in others)
    for _ in range(_TRIES):
        fault = _fault(chance, kind, round(chance.uniform(*within), 3))
        if first_drop and not fault.target.startswith("worker"):
            continue
        apart = min((_apart(fault, other) for other in others), default=_STARTS_WITHIN)
        if best is None or apart > best[0]:
            best = (apart, fault)
        if apart >= _STARTS_WITHIN:
            break
    return best[1] if best is not None else _fault(chance, kind, within[0])


def _apart(fault: Fault, other: Fault) -> float:
    """Seconds between two faults of one process; `_STARTS_WITHIN` for unrelated faults."""
    if other.target != fault.target or not {fault.kind, other.kind} <= _OF_ONE_PROCESS:
        return _STARTS_WITHIN
    return max(fault.at - other.at - other.lasts, other.at - fault.at - fault.lasts)


def _fault(chance: random.Random, kind: str, at: float) -> Fault:
    lasts = round(chance.uniform(0.5, 3.0), 2)
    if kind in DELAYS or kind in DROPS:
        # Mostly workers: their writes must not be lost.
        target = chance.choice((_worker(chance), _worker(chance), f"gateway-{chance.randrange(GATEWAYS)}", "all"))
        amount = round(chance.uniform(0.01, 0.2), 3) if kind in DELAYS else 0.0
        return Fault(at, kind, target, lasts, amount)
    if kind in {FaultKind.GATEWAY_KILL, FaultKind.GATEWAY_STOP}:
        return Fault(at, kind, f"gateway-{chance.randrange(GATEWAYS)}", lasts)
    if kind == FaultKind.CLOCK_SKEW:
        amount = round(chance.uniform(120, 900), 1) * chance.choice((-1, 1))
        return Fault(at, kind, chance.choice((_worker(chance), f"gateway-{chance.randrange(GATEWAYS)}")), 0.0, amount)
    if kind == FaultKind.REBALANCE:
        return Fault(at, kind, f"worker-{WORKERS}", round(chance.uniform(2.0, 6.0), 2))
    if kind.startswith(COMMAND):
        return Fault(at, kind, "all", 0.0)
    return Fault(at, kind, _worker(chance), lasts)


def _worker(chance: random.Random) -> str:
    return f"worker-{chance.randrange(WORKERS)}"
