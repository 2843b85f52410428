"""How long callers waited after a kill, by their own observations. Pure.

For each killed worker or child, and each model, `wait` is the longest time that one caller waited, from the kill to its answer (or
from its call, if that came within `WINDOW` of the kill). `silence` is the longest time without any answer while a caller was
waiting. A kill is `alone` if no other fault was active or still recovering from the kill until `WINDOW` after it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Final

from penstock.verify.observe.history import CallEnd, History, InjectedFault, ObservedCall
from penstock.verify.plan.plan import Call, CallKind, FaultKind, Plan

WINDOW: Final[dict[str, float]] = {FaultKind.WORKER_KILL: 4.0, FaultKind.CHILD_KILL: 2.0}
"""The measured kinds, in seconds."""
RECOVERS: Final[dict[str, float]] = {FaultKind.CHILD_KILL: 2.0}
"""Seconds for which a fault still delays callers; `LONG` for the others."""
LONG: Final = 4.0
_WAITS: Final = frozenset({CallKind.PLAIN, CallKind.KEYED, CallKind.SHARED})
"""Calls that wait for their answer and set no deadline."""


@dataclasses.dataclass(frozen=True, slots=True)
class Gap:
    """Waits of one model's callers after one kill.

    Attributes:
        waiting: the number of callers that waited.
        wait, silence: seconds.
        alone: no other fault can explain it.
    """

    kind: str
    target: str
    model: str
    at: float
    waiting: int
    wait: float
    silence: float
    alone: bool


def gaps(plan: Plan, history: History) -> list[Gap]:
    """All gaps of a run."""
    calls = {call.number: call for call in plan.calls}
    found = []
    for kill in history.faults:
        if kill.kind in WINDOW and not kill.note and kill.hit:
            for model in sorted({call.model for call in plan.calls}):
                found += _after(kill, model, _of(model, calls, history.seen), _is_alone(kill, history.faults))
    return found


def _of(model: str, calls: Mapping[int, Call], all_seen: Sequence[ObservedCall]) -> list[ObservedCall]:
    """Callers that waited for an answer; those whose connection broke do not count."""
    return [
        seen
        for seen in all_seen
        if seen.kind in _WAITS
        and seen.end is not CallEnd.LOST
        and seen.number in calls
        and calls[seen.number].model == model
    ]


def _after(kill: InjectedFault, model: str, callers: Sequence[ObservedCall], alone: bool) -> list[Gap]:
    window = kill.hit + WINDOW[kill.kind]
    waiting = [seen for seen in callers if seen.sent < window and seen.at > kill.hit]
    if not waiting:
        return []
    wait = max(seen.at - max(seen.sent, kill.hit) for seen in waiting)
    return [Gap(kill.kind, kill.target, model, kill.hit, len(waiting), wait, _silence(kill.hit, waiting), alone)]


def _silence(begin: float, waiting: Sequence[ObservedCall]) -> float:
    answered = sorted(seen.at for seen in waiting if seen.end is CallEnd.ANSWER)
    longest = 0.0
    for before, after in itertools.pairwise([begin, *answered]):
        since = min((max(seen.sent, before) for seen in waiting if seen.sent < after <= seen.at), default=after)
        longest = max(longest, after - since)
    return longest


def _is_alone(kill: InjectedFault, faults: Sequence[InjectedFault]) -> bool:
    return not any(
        fault.began < kill.hit + WINDOW[kill.kind] and fault.ended + RECOVERS.get(fault.kind, LONG) > kill.hit
        for fault in faults
        if fault is not kill and not fault.note
    )


def longest_gap(seen: Sequence[ObservedCall]) -> float:
    """The longest time of a run without an answer, in seconds, regardless of faults."""
    times = sorted(call.at for call in seen if call.end is CallEnd.ANSWER)
    return max((later - sooner for sooner, later in itertools.pairwise(times)), default=0.0)
