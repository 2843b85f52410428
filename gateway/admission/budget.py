"""The memory that strangers can make a gateway hold. Pure: bytes are counted before they are kept.

One `Budget` per gateway bounds everything that a caller can make it keep: heads and bodies that are being read, what they become
when they are inflated or parsed, calls that wait, answers that their caller does not read, caches. A part of it bounds one kind
of use, so that those who have shown no key yet, or who read nothing, leave room for the others.

Invariant: what was drawn is given back exactly once, so that `used` is the sum of what is held now, and 0 when nothing is.
"""

from __future__ import annotations

import dataclasses
from typing import Final

STRANGERS: Final = 4
"""A quarter of the budget is for what is held before anybody has shown a key: heads, pipelines, bodies that are being read."""
UNREAD: Final = 2
"""Half of it is for answers that wait for their caller to read them."""


class Budget:
    """A number of bytes that may be held at once.

    Args:
        limit: how many.
        whole: the budget that this one is a part of; what is drawn here is drawn there, too.

    Attributes:
        used: bytes held now.
        refused: how often there was no room.
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
        """Count so many bytes; False, and nothing is counted, where there is no room for them."""
        used = self.used + size
        if used > self.limit or (self._whole is not None and not self._whole.take(size)):
            self.refused += 1
            return False
        self.used = used
        return True

    def give(self, size: int) -> None:
        """So many bytes that were taken are not held any more."""
        self.used -= size
        if self._whole is not None:
            self._whole.give(size)


class Share:
    """What one holder has drawn from a budget.

    Attributes:
        size: bytes drawn now.
    """

    __slots__ = ("_budget", "size")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size = 0

    def hold(self, size: int) -> bool:
        """Hold so many bytes in all, more or fewer than before; False, and nothing changes, where there is no room."""
        more = size - self.size
        if more > 0:
            if not self._budget.take(more):
                return False
        elif more:
            self._budget.give(-more)
        self.size = size
        return True

    def free(self) -> None:
        """Give back all of it; nothing happens where that was done before."""
        if self.size:
            size, self.size = self.size, 0
            self._budget.give(size)


@dataclasses.dataclass(frozen=True, slots=True)
class Budgets:
    """The budget of one gateway and its parts.

    Attributes:
        whole: everything.
        strangers: what is held for those who have shown no key yet.
        unread: answers that wait for their caller to read them.
    """

    whole: Budget
    strangers: Budget
    unread: Budget

    @classmethod
    def of(cls, limit: int) -> Budgets:
        """A budget of so many bytes, with the parts that a gateway has."""
        whole = Budget(limit)
        return cls(whole, whole.part(limit // STRANGERS), whole.part(limit // UNREAD))
