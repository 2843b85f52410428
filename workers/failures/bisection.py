"""Finds the requests that are to blame for a failed batch: which of them run again together, and in which order. Pure.

A batch whose run crashed, hung, raised or returned something that is not an answer runs again in parts. A part that succeeds is
answered and is done; one that fails is split further; a request is blamed only for a run in which it was alone. Something else may
have killed the process, so a request becomes a dead letter only after it has died alone *and* `attempts` of its runs have died.
Running out of memory blames no request of a larger batch: smaller batches help (`limits.Caps`).

Invariants: every item leaves exactly once: by a run that succeeds, as a culprit, or by being left out of a run; an item is in at
most log2(n) + 2 + `attempts` failing runs; a lone culprit among n costs at most log2(n) + 1 + `attempts` of them.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
from collections.abc import Iterable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from protocol.dead_letter import MAX_ATTEMPTS

MAX_DEATHS: Final = 128
"""Runs of one batch that may die; each costs a restart, and after this many the model is at fault."""


class Cause(enum.StrEnum):
    """Why a run gave no answers."""

    CRASH = "crash"
    """The instance's process died."""
    HANG = "hang"
    """It ran too long and was killed."""
    FAILED = "failed"
    """The model raised, or its result cannot be split or must not be sent."""
    MEMORY = "memory"
    """There was not enough memory for this many rows."""

    @property
    def deadly(self) -> bool:
        """Whether the run took its instance with it."""
        return self in (Cause.CRASH, Cause.HANG)


class Suspect(Protocol):
    """An item of a failed batch; compared by identity.

    Attributes:
        rows: of a batch that it takes.
        attempt: 1 for the first delivery; each earlier delivery counts as a run that died.
    """

    rows: int
    attempt: int


S = TypeVar("S", bound=Suspect)


@dataclasses.dataclass(frozen=True, slots=True)
class Culprit(Generic[S]):
    """An item that is to blame and does not run again.

    Attributes:
        cause: of its last run.
        deaths: runs that died with it, those of earlier deliveries included.
        dead_letter: it goes to the dead letters; otherwise it is only answered with the failure of its last run.
    """

    item: S
    cause: Cause
    deaths: int
    dead_letter: bool


@dataclasses.dataclass(frozen=True, slots=True)
class _Part(Generic[S]):
    """Items to run together; if they succeed, `rest` must hold a culprit."""

    items: tuple[S, ...]
    rest: tuple[S, ...] = ()


class Bisection(Generic[S]):
    """Which parts of one batch to run, one after the other, until every item is answered or blamed.

    Call `next_part`, run it, report `part_succeeded`, `run_failed` or `part_skipped`, and repeat until `next_part` gives None. A
    run that had failed before is reported with `run_failed` right after construction.

    Args:
        parts: to run first, in this order.
        attempts: see `MAX_ATTEMPTS`.
        max_deaths: after this many, items that died do not run again; they are blamed, but are no dead letters.

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
        self._died_alone: collections.deque[_Part[S]] = collections.deque()
        self._current: _Part[S] | None = None
        self._died: collections.Counter[int] = collections.Counter()
        self._cost = 1.0
        self._was_split = False

    def next_part(self) -> tuple[S, ...] | None:
        """The part to run now; None when nothing is left to run. Items that died alone come last: no other item waits for them."""
        parts = self._parts or self._died_alone
        self._current = parts.popleft() if parts else None
        if self._current is None:
            return None
        self.runs += 1
        return self._current.items

    def part_succeeded(self) -> None:
        """The part has its answers."""
        part, self._current = self._current, None
        assert part is not None
        if part.rest:  # all of them together failed, and these did not
            self._split(part.rest)

    def run_failed(self, items: Sequence[S], cause: Cause, cost: float = 1.0) -> list[Culprit[S]]:
        """A run failed: of the part that `next_part` gave, or of the batch before this bisection.

        Args:
            items: of the run, without those that left before it.
            cause: why.
            cost: how many successful runs cost as much as this one did.

        Returns:
            The items that are to blame; they do not run again.
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
        culprits = self._blame(items, cause)
        if not culprits and len(items) > 1:
            # A second culprit was not expected: from here on halves, which bound how often any item fails.
            self._cost = 1.0 if self._was_split else cost
            self._was_split = True
            self._split(items)
        if rest:
            self._parts.appendleft(_Part(rest))  # first: they are probably innocent
        return culprits

    def part_skipped(self) -> None:
        """The part did not run: no caller wants it any more."""
        part, self._current = self._current, None
        if part is not None and part.rest:
            self._parts.appendleft(_Part(part.rest))

    @property
    def has_next(self) -> bool:
        """Whether `next_part` has a part to give."""
        return bool(self._parts or self._died_alone)

    def give_up(self) -> list[S]:
        """Run nothing more; returns every item that is neither answered nor blamed nor in the part that was given out last."""
        parts = [*self._parts, *self._died_alone]
        left = list(self._current.rest) if self._current is not None else []
        self._parts.clear()
        self._died_alone.clear()
        self._current = None
        return left + [item for part in parts for item in (*part.items, *part.rest)]

    def deaths_of(self, item: S) -> int:
        """Runs that died with the item in them, those of earlier deliveries included."""
        return self._died[id(item)] + item.attempt - 1

    def _blame(self, items: Sequence[S], cause: Cause) -> list[Culprit[S]]:
        if cause.deadly and self.deaths >= self._max_deaths:
            return [Culprit(item, cause, self.deaths_of(item), dead_letter=False) for item in items]
        if len(items) > 1:
            return []
        (item,) = items
        deaths = self.deaths_of(item)
        if not cause.deadly or deaths >= self._attempts:
            return [Culprit(item, cause, deaths, dead_letter=cause.deadly)]
        self._died_alone.append(_Part((item,)))
        return []

    def _split(self, items: Sequence[S]) -> None:
        """Run the first share next, and blame the rest only if that succeeds; where a failure is expensive the share is small."""
        items = tuple(items)
        if len(items) == 1:
            self._parts.appendleft(_Part(items))
            return
        share = first_share(len(items), self._cost)
        self._parts.appendleft(_Part(items[:share], items[share:]))

    def _halve(self, items: Sequence[S]) -> list[Culprit[S]]:
        if len(items) == 1:
            return [Culprit(items[0], Cause.MEMORY, self.deaths_of(items[0]), dead_letter=False)]
        middle = len(items) // 2
        self._parts.extendleft((_Part(tuple(items[middle:])), _Part(tuple(items[:middle]))))
        return []


def first_share(count: int, cost: float) -> int:
    """How many of `count` items, one of which is to blame, to run first: half of them, or fewer where a failure is expensive.

    Doubling the share halves the runs that succeed before the culprit's share is reached, which saves about count / (4 * share) of
    them, and costs one more failure. It pays off as long as the saving is more than `cost`.
    """
    return max(1, int(count / (2 * max(1.0, cost))))
