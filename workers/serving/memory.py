"""How many bytes of requests one process holds, over all of its models and both lanes. Pure.

Half of the budget is divided into equal guaranteed shares, one for each queue; the rest is common, first come, first served. So one
model alone may use all of it, and one beside a full one has its share.

Invariants: `used` is the sum over the open queues; a queue that holds nothing always has room, so that no model waits for another
one's memory; the bytes held exceed the limit by at most what queues take in at once, and by what was held above the shares when
another queue was opened.
"""

from __future__ import annotations

from typing import Final

GUARANTEED: Final = 0.5
"""Part of the budget that is divided into shares."""
BATCH_LANE: Final = 0.5
"""Part of the common bytes up to which batch lanes take from them: the rest is for interactive requests."""


class QueueMemory:
    """One budget of bytes.

    Args:
        limit: of all queues together.

    Attributes:
        limit: see above.
        used: bytes that all queues hold.
    """

    __slots__ = ("_common_used", "_queues", "_share", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._queues: dict[QueueShare, None] = {}
        self._share = 0
        self._common_used = 0

    @property
    def share(self) -> int:
        """Bytes that each queue is guaranteed."""
        return self._share

    def open_queue(self, most_common: float = 1.0) -> QueueShare:
        """A queue's part of it.

        Args:
            most_common: it takes common bytes only while less than this part of them is used.
        """
        share = QueueShare(self, most_common)
        self._queues[share] = None
        self._divide()
        return share

    def free(self, held: int, most_common: float) -> int:
        """Bytes that a queue that holds so many may take in; at most 0 for none."""
        common = self.limit - self._share * len(self._queues)
        free = max(0, self._share - held) + max(0, int(common * most_common) - self._common_used)
        return free if held else max(1, free)

    def moved(self, before: int, after: int) -> None:
        """A queue holds so many bytes more, or fewer."""
        self.used += after - before
        self._common_used += max(0, after - self._share) - max(0, before - self._share)

    def closed(self, share: QueueShare) -> None:
        """A queue is gone, and what it held."""
        del self._queues[share]
        self.used -= share.held
        self._divide()

    def _divide(self) -> None:
        self._share = int(self.limit * GUARANTEED) // max(1, len(self._queues))
        self._common_used = sum([max(0, share.held - self._share) for share in self._queues])


class QueueShare:
    """What one queue holds.

    Attributes:
        held: bytes.
    """

    __slots__ = ("_memory", "_most_common", "_open", "held")

    def __init__(self, memory: QueueMemory, most_common: float) -> None:
        self._memory = memory
        self._most_common = most_common
        self._open = True
        self.held = 0

    @property
    def free(self) -> int:
        """Bytes that it may take in; at most 0 for none."""
        return self._memory.free(self.held, self._most_common)

    @property
    def limit(self) -> int:
        """Bytes that all queues together may hold."""
        return self._memory.limit

    def add(self, nbytes: int) -> None:
        """So many more are held, or fewer."""
        before, self.held = self.held, self.held + nbytes
        if self._open:
            self._memory.moved(before, self.held)

    def close(self) -> None:
        """The queue is gone. Idempotent."""
        if self._open:
            self._open = False
            self._memory.closed(self)
