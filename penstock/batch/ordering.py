"""In which order lines are written, and from where a topic of answers must be read again after a kill. Pure."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.batch.spans import Span


@dataclasses.dataclass(slots=True)
class Chunk:
    """Lines of output that follow one another in the input.

    Attributes:
        spans: their numbers.
        output, errors: what is written to each file.
        answered, failed: how many lines have outputs, and how many an error.
        owner: of the job.
    """

    spans: Sequence[Span]
    output: bytes = b""
    errors: bytes = b""
    answered: int = 0
    failed: int = 0
    owner: Any = None

    @property
    def size(self) -> int:
        """Bytes to write."""
        return len(self.output) + len(self.errors)


class Ordering:
    """Gives back chunks in the order of the input, or at once if the order is free."""

    def __init__(self, *, unordered: bool = False) -> None:
        self._unordered = unordered
        self._next = 0
        self._early: dict[int, tuple[int, Chunk]] = {}
        self.held = 0
        """Bytes of chunks that wait for earlier ones."""

    def put(self, number: int, count: int, chunk: Chunk) -> list[Chunk]:
        """Take a chunk; returns what may be written now.

        Args:
            number: of its first row; rows are numbered from 0 without gaps, as they were read.
            count: how many rows it has.
            chunk: of these rows.
        """
        if self._unordered:
            return [chunk]
        if number != self._next:
            self._early[number] = count, chunk
            self.held += chunk.size
            return []
        self._next += count
        ready = [chunk]
        while self._early and (found := self._early.pop(self._next, None)) is not None:
            self._next += found[0]
            self.held -= found[1].size
            ready.append(found[1])
        return ready


class Watermark:
    """For each partition of a topic of answers, the offset below which every answer is written."""

    def __init__(self, start: Mapping[int, int] | None = None) -> None:
        self._next: dict[int, int] = dict(start or {})
        self._open: dict[int, list[int]] = {}
        self._released: dict[int, set[int]] = {}

    def arrived(self, partition: int, offset: int) -> None:
        """An answer was read; it counts as unwritten until it is released."""
        self._next[partition] = max(offset + 1, self._next.get(partition, 0))
        heapq.heappush(self._open.setdefault(partition, []), offset)

    def release(self, partition: int, offset: int) -> None:
        """The answer is written, or was of no use."""
        waiting = self._open.get(partition, [])
        released = self._released.setdefault(partition, set())
        released.add(offset)
        while waiting and waiting[0] in released:
            released.discard(heapq.heappop(waiting))

    def low(self) -> dict[int, int]:
        """Where reading must begin again, by partition."""
        return {
            partition: min(self._open[partition][0], after) if self._open.get(partition) else after
            for partition, after in self._next.items()
        }
