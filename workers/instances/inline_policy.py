"""Which batches are so short that running them on the event loop costs less than handing them to a thread. Pure.

Runs on the loop are measured in CPU time: models allowed there only compute. A run on a thread also waits for the interpreter, so
only the fastest one of each kind counts. On a busy machine single runs take many times as long as the model needs, in CPU time
too, so on the loop a kind is judged by the best of its last `RECENT` runs.
Invariant: after a run on the loop that was not brief, the last `RECENT` runs of its kind took at most `TOO_SLOW` together, or
the kind is back on the thread for a while.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Final

INLINE_BELOW: Final = 0.0003
"""Seconds: what handing a batch to a thread and back costs in CPU time, and about as much in latency."""
RECENT: Final = 8
TOO_SLOW: Final = 0.016
"""Seconds that the last `RECENT` runs on the loop may take together, however fast the best of them was."""
BACK_TO_THREAD: Final = 10.0
"""Seconds for which a kind that was too slow stays on the thread."""
MAX_KINDS: Final = 64

Kind = tuple[object, int]
"""Shape class and rows, rounded up to a power of two."""


@dataclasses.dataclass(slots=True)
class _Seen:
    fastest: float = math.inf
    not_before: float = 0.0
    recent: collections.deque[float] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=RECENT))


class InlinePolicy:
    """Decides for one model version, from its measured runs."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[Kind, _Seen] = {}

    def runs_inline(self, shape_class: object, rows: int, now: float) -> bool:
        """Whether such a batch should run on the event loop."""
        seen = self._seen.get((shape_class, (rows - 1).bit_length()))
        return seen is not None and seen.fastest < INLINE_BELOW and now >= seen.not_before

    def record(self, shape_class: object, rows: int, seconds: float, cpu: float | None, now: float) -> None:
        """Such a batch ran for `seconds` on a thread, or with `cpu` seconds of CPU time (not None) on the loop."""
        kind = (shape_class, (rows - 1).bit_length())
        seen = self._seen.get(kind)
        if seen is None:
            if len(self._seen) >= MAX_KINDS:
                del self._seen[next(iter(self._seen))]
            seen = self._seen[kind] = _Seen()
        if cpu is None:
            seen.fastest = min(seen.fastest, seconds)
            return
        recent = seen.recent
        recent.append(cpu)
        if cpu >= INLINE_BELOW and (sum(recent) > TOO_SLOW or (len(recent) == RECENT and min(recent) >= INLINE_BELOW)):
            self._seen[kind] = _Seen(not_before=now + BACK_TO_THREAD)
