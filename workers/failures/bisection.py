"""What a batch that went wrong says about its requests: who runs again with whom, and who is to blame. Pure.

A batch whose run crashed, hung, raised or gave something that is no answer is run again in parts. A part that succeeds is answered
and is out of it; one that fails is parted further; a request is blamed only for a run in which it was alone. A process that dies
may also have been killed by somebody else, so a request goes to the dead letters only after it has died alone *and* has been in
`attempts` runs that died. Running out of memory blames nobody who has company: smaller batches help (`remedies.Caps`).

Invariants: every item that was given leaves exactly once, by a run that succeeds, by a sentence, or by being left out of a run;
an item is in at most log2(n) + 2 + `attempts` failing runs; a lone culprit among n costs at most log2(n) + 1 + `attempts` of them.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
from collections.abc import Iterable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from protocol.dead_letter import MAX_ATTEMPTS

MAX_DEATHS: Final = 128
"""Runs of one batch that may die; each costs a restart, and with so many the model is at fault."""


class Cause(enum.StrEnum):
    """Why a run gave no answers."""

    CRASH = "crash"
    """The instance's process died."""
    HANG = "hang"
    """It ran too long and was killed."""
    FAILED = "failed"
    """The model raised, or what it returned cannot be split or must not be answered."""
    MEMORY = "memory"
    """There was not enough memory for so many rows."""

    @property
    def deadly(self) -> bool:
        """Whether the run took its instance with it."""
        return self in (Cause.CRASH, Cause.HANG)


class Suspect(Protocol):
    """What is judged: compared by identity.

    Attributes:
        rows: of a batch that it takes.
        attempt: 1 for the first delivery; what it was in before counts as runs that died.
    """

    rows: int
    attempt: int


S = TypeVar("S", bound=Suspect)


@dataclasses.dataclass(frozen=True, slots=True)
class Sentence(Generic[S]):
    """The end of an item that is to blame.

    Attributes:
        cause: of its last run.
        deaths: runs that died with it, those of earlier deliveries included.
        buried: it goes to the dead letters; otherwise it is only answered with the failure of its last run.
    """

    item: S
    cause: Cause
    deaths: int
    buried: bool


@dataclasses.dataclass(frozen=True, slots=True)
class _Part(Generic[S]):
    """Items to run together; `rest` are those that must hold a culprit if these do not."""

    items: tuple[S, ...]
    rest: tuple[S, ...] = ()


class Inquiry(Generic[S]):
    """Which parts of one batch to run, one after the other, until everybody has an end.

    Call `next`, run what it gives, say `succeeded` or `failed`, and so on until `next` gives None. What already ran and failed is
    told with `failed` right after construction.

    Args:
        parts: to run first, in this order.
        attempts: see `MAX_ATTEMPTS`.
        max_deaths: after so many nothing that died is run again; what is left of it is sentenced unburied.

    Attributes:
        deaths: runs that died.
        runs: parts that were given out.
    """

    def __init__(
        self, parts: Iterable[Sequence[S]] = (), attempts: int = MAX_ATTEMPTS, max_deaths: int = MAX_DEATHS
    ) -> None:
        self.deaths = 0
        self.runs = 0
        self._attempts = attempts
        self._max_deaths = max_deaths
        self._parts: collections.deque[_Part[S]] = collections.deque(_Part(tuple(part)) for part in parts)
        self._doubtful: collections.deque[_Part[S]] = collections.deque()
        self._current: _Part[S] | None = None
        self._died: collections.Counter[int] = collections.Counter()
        self._price = 1.0
        self._parted = False

    def next(self) -> tuple[S, ...] | None:
        """The part to run now; None when everybody has an end. Those that died alone come last: nobody waits for them."""
        parts = self._parts or self._doubtful
        self._current = parts.popleft() if parts else None
        if self._current is None:
            return None
        self.runs += 1
        return self._current.items

    def succeeded(self) -> None:
        """The part has its answers."""
        part, self._current = self._current, None
        assert part is not None
        if part.rest:  # all of them together failed, and these did not
            self._part(part.rest)

    def failed(self, items: Sequence[S], cause: Cause, price: float = 1.0) -> list[Sentence[S]]:
        """A run failed: of the part that `next` gave, or of a batch before this inquiry.

        Args:
            items: of the run, without those that left before it.
            cause: why.
            price: how many runs that succeed cost as much as this one did.

        Returns:
            Who is to blame, and will not be run again.
        """
        part, self._current = self._current, None
        if cause.deadly:
            self.deaths += 1
            self._died.update(map(id, items))
        rest = part.rest if part is not None else ()
        if cause is Cause.MEMORY:
            if rest:
                self._parts.appendleft(_Part(rest))
            return self._halve(items)
        sentences = self._judge(items, cause)
        if not sentences and len(items) > 1:
            # A second one to blame was not expected: from here on halves, which bound how often anybody fails.
            self._price = 1.0 if self._parted else price
            self._parted = True
            self._part(items)
        if rest:
            self._parts.appendleft(_Part(rest))  # first: they are probably innocent
        return sentences

    def skipped(self) -> None:
        """Nothing of the part was left to run: its callers do not want it any more."""
        part, self._current = self._current, None
        if part is not None and part.rest:
            self._parts.appendleft(_Part(part.rest))

    @property
    def waiting(self) -> bool:
        """Whether `next` has a part to give."""
        return bool(self._parts or self._doubtful)

    def drop(self) -> list[S]:
        """Give up: nothing more is run; returns who has no end and is not in the part that was given out last."""
        parts = [*self._parts, *self._doubtful]
        left = list(self._current.rest) if self._current is not None else []
        self._parts.clear()
        self._doubtful.clear()
        self._current = None
        return left + [item for part in parts for item in (*part.items, *part.rest)]

    def deaths_of(self, item: S) -> int:
        """Runs that died with the item in them, of earlier deliveries too."""
        return self._died[id(item)] + item.attempt - 1

    def _judge(self, items: Sequence[S], cause: Cause) -> list[Sentence[S]]:
        if cause.deadly and self.deaths >= self._max_deaths:
            return [Sentence(item, cause, self.deaths_of(item), buried=False) for item in items]
        if len(items) > 1:
            return []
        (item,) = items
        deaths = self.deaths_of(item)
        if not cause.deadly or deaths >= self._attempts:
            return [Sentence(item, cause, deaths, buried=cause.deadly)]
        self._doubtful.append(_Part((item,)))
        return []

    def _part(self, items: Sequence[S]) -> None:
        """Run the first of them next, and only if those succeed judge the others; few come first where a failure is dear."""
        items = tuple(items)
        if len(items) == 1:
            self._parts.appendleft(_Part(items))
            return
        share = first_share(len(items), self._price)
        self._parts.appendleft(_Part(items[:share], items[share:]))

    def _halve(self, items: Sequence[S]) -> list[Sentence[S]]:
        if len(items) == 1:
            return [Sentence(items[0], Cause.MEMORY, self.deaths_of(items[0]), buried=False)]
        middle = len(items) // 2
        self._parts.extendleft((_Part(tuple(items[middle:])), _Part(tuple(items[:middle]))))
        return []


def first_share(count: int, price: float) -> int:
    """How many of `count` items, one of which is to blame, to run first: half of them, or fewer where a failure is dear.

    With the first share twice as large half as many runs succeed before the culprit's share is reached, about count / (4 * share)
    fewer, and one more fails. So it is doubled as long as that is more than `price`.
    """
    return max(1, int(count / (2 * max(1.0, price))))
