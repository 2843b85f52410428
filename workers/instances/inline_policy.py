"""Which batches are so short that running them on the event loop costs less than handing them to a thread. Pure.

Runs on the loop are measured in CPU time, which other processes do not distort: models allowed there only compute. A run on
a thread also waits for the interpreter, so only the fastest one of each kind counts.
Invariant: one slow run on the loop sends its kind back to the thread for a while.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Final

INLINE_BELOW: Final = 0.0003
"""Seconds: what handing a batch to a thread and back costs in CPU time, and about as much in latency."""
TOO_SLOW: Final = 0.002
"""Seconds that a run on the loop must never take."""
BACK_TO_THREAD: Final = 10.0
"""Seconds for which a kind that was too slow stays on the thread."""
WEIGHT: Final = 0.2
MAX_KINDS: Final = 64

Kind = tuple[object, int]
"""Shape class and rows, rounded up to a power of two."""


@dataclasses.dataclass(slots=True)
class _Seen:
    fastest: float = math.inf
    here: float | None = None
    not_before: float = 0.0


class InlinePolicy:
    """Decides for one model version, from its measured runs."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[Kind, _Seen] = {}

    def runs_inline(self, shape_class: object, rows: int, now: float) -> bool:
        """Whether such a batch should run on the event loop."""
        seen = self._seen.get((shape_class, (rows - 1).bit_length()))
        if seen is None or now < seen.not_before:
            return False
        return (seen.fastest if seen.here is None else seen.here) < INLINE_BELOW

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
        seen.here = cpu if seen.here is None else seen.here + WEIGHT * (cpu - seen.here)
        if cpu > TOO_SLOW or seen.here >= INLINE_BELOW:
            self._seen[kind] = _Seen(not_before=now + BACK_TO_THREAD)
