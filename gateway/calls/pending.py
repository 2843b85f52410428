"""Calls in flight, by the ref of their request. Pure: times are arguments, what is due comes back.

Invariants: a call leaves exactly once (fed, expired, dropped), and `left` says so; several calls may wait for one ref (the same
`Idempotency-Key`, long polls), and one answer is for all of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from protocol.deadline import too_late
from protocol.messages import InferReply
from protocol.ports import Place, Wake

SWEEP_AT_MOST: Final = 8.0
"""Longest pause between two looks for the same call."""


@dataclasses.dataclass(slots=True, eq=False)
class Call:
    """One caller waiting for one answer.

    Attributes:
        ref: of its request.
        topic: where the request was, or will be, published.
        model, version, label: for the answers that the gateway gives itself.
        size: bytes that admission counts.
        deadline: when it is answered 504; `math.inf` for never.
        accepted: when its last byte was read.
        on_done: called once with the answer.
        claimed: its stream holds a claim; it may have other waiters, and its payload is never trimmed.
        owner: it is the call whose deadline the published record carries.
        counted: admission and the metrics count it; a long poll is not counted.
        sweep_at: when its stream is looked up next; 0 means `sweep_after` from registration.
        place: where its record is, once the broker has said so.
        left: it is no longer waiting.
        twin, before: the next and the previous call that wait for the same ref.
    """

    ref: str
    topic: str
    model: str
    version: str
    label: str
    size: int
    deadline: float
    accepted: float
    on_done: Callable[[InferReply], None]
    claimed: bool = False
    owner: bool = True
    counted: bool = True
    registered: float = 0.0
    sweep_at: float = 0.0
    place: Place | None = None
    left: bool = False
    twin: Call | None = None
    before: Call | None = None


Delivery = tuple[Call, bytes]
"""A call, no longer pending, and the payload of its answer."""


class Pending:
    """The table of waiting calls. O(1) per call, however many wait for the same ref; `expire` and `sweep` look at all of them, so
    call them a few times a second.

    Args:
        sweep_after: age at which a call's stream is looked up for the first time.
    """

    __slots__ = ("_calls", "_count", "_next_deadline", "_sweep_after")

    def __init__(self, sweep_after: float = 1.0) -> None:
        self._sweep_after = sweep_after
        self._calls: dict[str, Call] = {}
        self._count = 0
        self._next_deadline = math.inf

    def __len__(self) -> int:
        """Calls waiting."""
        return self._count

    def __contains__(self, ref: str) -> bool:
        return ref in self._calls

    def __iter__(self) -> Iterator[Call]:
        for call in self._calls.values():
            yield from _chain(call)

    def first(self, ref: str) -> Call | None:
        """The call that has waited longest for this ref."""
        return self._calls.get(ref)

    def register(self, call: Call, now: float) -> None:
        """Let a call wait."""
        call.registered = now
        if not call.sweep_at:
            call.sweep_at = now + self._sweep_after
        if call.deadline < self._next_deadline:
            self._next_deadline = call.deadline
        waiting = self._calls.setdefault(call.ref, call)
        if waiting is not call:
            following = waiting.twin
            call.twin, call.before, waiting.twin = following, waiting, call
            if following is not None:
                following.before = call
        self._count += 1

    def feed(self, wakes: Sequence[Wake]) -> tuple[list[Delivery], list[str]]:
        """Who is answered by these wake-ups, and the refs of those whose payload has to be fetched first."""
        deliveries: list[Delivery] = []
        pointers: list[str] = []
        calls = self._calls
        for wake in wakes:
            payload = wake.payload
            if payload is None:
                if wake.ref in calls:
                    pointers.append(wake.ref)
                continue
            call = calls.pop(wake.ref, None)
            while call is not None:
                call.left = True
                self._count -= 1
                deliveries.append((call, payload))
                following = call.twin
                if following is not None:  # calls that have left hold nobody else in memory
                    call.twin = following.before = None
                call = following
        return deliveries, pointers

    def drop(self, call: Call) -> bool:
        """Take one call out, whatever its reason; False where it had left before."""
        if call.left:
            return False
        before, following = call.before, call.twin
        if before is None:
            if self._calls.get(call.ref) is not call:
                return False
            if following is None:
                del self._calls[call.ref]
            else:
                self._calls[call.ref] = following
        else:
            before.twin = following
        if following is not None:
            following.before = before
        call.left = True
        call.twin = call.before = None
        self._count -= 1
        return True

    def expire(self, now: float) -> list[Call]:
        """The calls whose deadline has come; they are taken out."""
        if now < self._next_deadline:
            return []
        expired = [call for call in self if too_late(call.deadline, now)]
        for call in expired:
            self.drop(call)
        self._next_deadline = min((call.deadline for call in self), default=math.inf)
        return expired

    def wake_at(self) -> float:
        """Nobody expires before this; `math.inf` where nobody ever does."""
        return self._next_deadline

    def sweep(self, now: float) -> list[str]:
        """The refs to look up now, because no wake-up came; each waits longer for its next look."""
        due: list[str] = []
        for call in self:
            if call.sweep_at <= now:
                call.sweep_at = now + min(max(now - call.registered, 0.05), SWEEP_AT_MOST)
                due.append(call.ref)
        return list(dict.fromkeys(due))


def _chain(call: Call | None) -> Iterator[Call]:
    while call is not None:
        yield call
        call = call.twin
