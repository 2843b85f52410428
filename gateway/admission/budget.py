"""The memory that callers can make a gateway hold; bytes are counted before they are kept. Pure.

One `Budget` per gateway bounds everything that a caller can make it keep: heads and bodies while they are read, their inflated and
parsed forms, waiting calls, answers that the caller does not read, caches. Parts of it bound one kind of use, so that callers
without a key, or callers that do not read, leave room for the others.

Invariant: every draw is returned exactly once, so `used` is the number of bytes held now.
"""

from __future__ import annotations

import dataclasses
from typing import Final

UNAUTHENTICATED: Final = 4
"""Divisor: a quarter of the budget is for unauthenticated callers: heads, pipelines, bodies while they are read."""
BATCH: Final = 4
"""Divisor: a quarter of the budget is for calls in the batch lane, so that interactive calls always find room."""
UNREAD: Final = 2
"""Divisor: half of the budget is for answers that their callers have not read."""


class Budget:
    """A bounded number of bytes.

    Args:
        limit: bytes that may be held at once.
        whole: the parent budget; every draw counts there too.

    Attributes:
        used: bytes held now.
        refused: number of draws for which there was no room.
    """

    __slots__ = ("_whole", "limit", "refused", "used")

    def __init__(self, limit: int, whole: Budget | None = None) -> None:
        self.limit = limit
        self.used = 0
        self.refused = 0
        self._whole = whole

    def part(self, limit: int) -> Budget:
        """A part of this budget, with a limit of its own."""
        return Budget(limit, self)

    def take(self, size: int) -> bool:
        """Draw bytes; False, and nothing is drawn, if there is no room."""
        used = self.used + size
        if used > self.limit or (self._whole is not None and not self._whole.take(size)):
            self.refused += 1
            return False
        self.used = used
        return True

    def give(self, size: int) -> None:
        """Return bytes."""
        self.used -= size
        if self._whole is not None:
            self._whole.give(size)


class Share:
    """The bytes that one holder has drawn from a budget.

    Attributes:
        size: bytes drawn now.
    """

    __slots__ = ("_budget", "size")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size = 0

    def hold(self, size: int) -> bool:
        """Set the bytes held in all, up or down; False, and nothing changes, if there is no room."""
        more = size - self.size
        if more > 0:
            if not self._budget.take(more):
                return False
        elif more:
            self._budget.give(-more)
        self.size = size
        return True

    def free(self) -> None:
        """Return all of it; does nothing the second time."""
        if self.size:
            size, self.size = self.size, 0
            self._budget.give(size)


@dataclasses.dataclass(frozen=True, slots=True)
class Budgets:
    """The budget of one gateway and its parts.

    Attributes:
        whole: all bytes.
        unauthenticated: held for unauthenticated callers.
        unread: answers that their callers have not read.
        batch: calls in the batch lane.
    """

    whole: Budget
    unauthenticated: Budget
    unread: Budget
    batch: Budget

    @classmethod
    def of(cls, limit: int) -> Budgets:
        """The budgets of a gateway that may hold `limit` bytes."""
        whole = Budget(limit)
        return cls(whole, whole.part(limit // UNAUTHENTICATED), whole.part(limit // UNREAD), whole.part(limit // BATCH))
