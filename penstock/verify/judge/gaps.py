"""How long callers wait after a kill, by what they saw themselves. Pure.

For every worker and every child that was killed, and for each model: the longest time that one caller waited (`wait`: from the
kill, or from its call if that came within `WINDOW` of it, to its answer), and the longest time in which nobody got one although
somebody waited (`silence`). A kill is `alone` where nothing else was broken, or still recovering, from before it until `WINDOW`
after it; what is broken later, while callers still wait, is no excuse.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Final

from penstock.verify.observe.history import CallEnd, History, InjectedFault, ObservedCall
from penstock.verify.plan.plan import Call, CallKind, FaultKind, Plan

WINDOW: Final[dict[str, float]] = {FaultKind.WORKER_KILL: 4.0, FaultKind.CHILD_KILL: 2.0}
"""Seconds; the kinds that are measured."""
RECOVERS: Final[dict[str, float]] = {FaultKind.CHILD_KILL: 2.0}
"""Seconds after a fault in which callers may still wait for its sake; `LONG` for all others."""
LONG: Final = 4.0
_WAITS: Final = frozenset({CallKind.PLAIN, CallKind.KEYED, CallKind.SHARED})
"""Calls that are held until there is an answer, and have no deadline of their own."""


@dataclasses.dataclass(frozen=True, slots=True)
class Gap:
    """What callers of one model saw after one kill.

    Attributes:
        waiting: callers who waited in it.
        wait, silence: seconds.
        alone: nothing else can explain it.
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
    """All of a run."""
    calls = {call.number: call for call in plan.calls}
    found = []
    for kill in history.faults:
        if kill.kind in WINDOW and not kill.note and kill.hit:
            for model in sorted({call.model for call in plan.calls}):
                found += _after(kill, model, _of(model, calls, history.seen), _is_alone(kill, history.faults))
    return found


def _of(model: str, calls: Mapping[int, Call], all_seen: Sequence[ObservedCall]) -> list[ObservedCall]:
    """Callers who were held until they were told something; one whose connection broke was not."""
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
    """Seconds of the longest time of a run in which no call was answered, whatever was broken in it."""
    times = sorted(call.at for call in seen if call.end is CallEnd.ANSWER)
    return max((later - sooner for sooner, later in itertools.pairwise(times)), default=0.0)
