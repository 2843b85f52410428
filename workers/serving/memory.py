"""How many bytes of requests one process holds, over all of its models and both lanes. Pure.

Invariants: `used` is the sum over the open queues; a queue that holds nothing always has room, so that no model waits for another
one's memory; the bytes held exceed the limit by at most what the queues take in at once and their least shares, half the limit.
"""

from __future__ import annotations

from typing import Final

UNLIMITED: Final = 2**62


class QueueMemory:
    """One budget of bytes.

    Args:
        limit: above it, queues take in only their least share.

    Attributes:
        used: bytes that all queues hold.
    """

    __slots__ = ("_limit", "_queues", "used")

    def __init__(self, limit: int = UNLIMITED) -> None:
        self._limit = limit
        self._queues = 0
        self.used = 0

    def open_queue(self) -> QueueShare:
        """A queue's part of it."""
        self._queues += 1
        return QueueShare(self)

    def free(self, held: int) -> int:
        """Bytes that a queue that holds so many may take in; at most 0 for none. The least share is half of an equal one."""
        least = self._limit // (2 * max(1, self._queues))
        return max(self._limit - self.used, least - held, 0 if held else 1)

    def closed(self, held: int) -> None:
        """A queue is gone, and what it held."""
        self._queues -= 1
        self.used -= held


class QueueShare:
    """What one queue holds.

    Attributes:
        held: bytes.
    """

    __slots__ = ("_memory", "_open", "held")

    def __init__(self, memory: QueueMemory) -> None:
        self._memory = memory
        self._open = True
        self.held = 0

    @property
    def free(self) -> int:
        """Bytes that it may take in; at most 0 for none."""
        return self._memory.free(self.held)

    def add(self, nbytes: int) -> None:
        """So many more are held, or fewer."""
        self.held += nbytes
        if self._open:
            self._memory.used += nbytes

    def close(self) -> None:
        """The queue is gone. Idempotent."""
        if self._open:
            self._open = False
            self._memory.closed(self.held)
