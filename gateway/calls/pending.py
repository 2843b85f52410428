"""The table of waiting calls, by the ref of their request. Pure: time is an argument.

Invariants: a call leaves exactly once (fed, expired or dropped), and then `left` is set; several calls may wait for one ref (one
`Idempotency-Key`, long polls), and one answer goes to all of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from gateway.routing.router import PartitionRows
from protocol.deadline import too_late
from protocol.messages import InferReply, Lane
from protocol.ports import Payload, Place, Wake

SWEEP_AT_MOST: Final = 8.0
"""Longest pause between two lookups of the same call, in seconds."""


@dataclasses.dataclass(slots=True, eq=False)
class Call:
    """One caller waiting for one answer.

    Attributes:
        ref: of its request.
        topic: of its record.
        model, version, label: for answers that the gateway makes itself.
        size: bytes counted by admission.
        deadline: when it is answered 504; `math.inf` for never.
        accepted: when its last byte was read.
        on_done: called once with the answer.
        claimed: whether its stream holds a claim; then others may wait for it, and its payload is never trimmed.
        owner: whether the published record carries its deadline.
        counted: whether admission and metrics count it; they do not count a long poll.
        lane: that its request joined.
        rows: of its request.
        routed: where the router counts its rows; None if it does not.
        sweep_at: when its stream is looked up next; 0 means `sweep_after` from registration.
        place: of its record, once acknowledged.
        left: whether it has stopped waiting.
        stepped: `Clock.stepped` when it began to wait.
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
    lane: Lane = Lane.INTERACTIVE
    rows: int = 1
    routed: PartitionRows | None = None
    registered: float = 0.0
    sweep_at: float = 0.0
    place: Place | None = None
    left: bool = False
    stepped: float = 0.0
    twin: Call | None = None
    before: Call | None = None


Delivery = tuple[Call, Payload]
"""A call that has left the table, and the payload of its answer."""


class Pending:
    """The table of waiting calls. O(1) per call, however many wait for one ref; `expire` and `sweep` are O(n), for a few calls
    per second.

    Args:
        sweep_after: age of a call at its first lookup, in seconds.
    """

    __slots__ = ("_calls", "_count", "_next_deadline", "_sweep_after")

    def __init__(self, sweep_after: float = 1.0) -> None:
        self._sweep_after = sweep_after
        self._calls: dict[str, Call] = {}
        self._count = 0
        self._next_deadline = math.inf

    def __len__(self) -> int:
        """Number of waiting calls."""
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
        """Add a call."""
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
        """The calls that these wake-ups answer, and the refs whose payload has to be fetched first."""
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
                if following is not None:  # a call that has left keeps no other in memory
                    call.twin = following.before = None
                call = following
        return deliveries, pointers

    def drop(self, call: Call) -> bool:
        """Remove one call; False if it had left before."""
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
        """Remove and return the calls whose deadline has passed."""
        if now < self._next_deadline:
            return []
        expired = [call for call in self if too_late(call.deadline, now)]
        for call in expired:
            self.drop(call)
        self._next_deadline = min((call.deadline for call in self), default=math.inf)
        return expired

    def wake_at(self) -> float:
        """No call expires before this; `math.inf` if none ever does."""
        return self._next_deadline

    def sweep(self, now: float) -> list[str]:
        """The refs that are due for a lookup; the pause before a call's next one grows with its age."""
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
