"""What protects a model from its requests, and requests from a model that is broken itself. Pure: time is an argument.

`Caps` keeps batches of a shape below the size that ran out of memory; `Flood` tells when nearly everything fails, so that the model
is at fault and not the requests; `time_limit` says when a batch hangs.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Hashable, Iterable, Sequence
from typing import Final

from workers.failures.bisection import S

RECOVERY: Final = 30.0
"""Seconds after which a cap is raised by an eighth, if nothing ran out of memory."""
MAX_SHAPES: Final = 64

WINDOW: Final = 60.0
"""Seconds over which blame is counted."""
MANY: Final = 8
"""Requests blamed within the window below which it is no flood."""
DEATHS: Final = 0.8
"""Share of requests to blame for deaths from which on the model is to blame: each death costs everybody a restart."""
FAILURES: Final = 0.98
"""The same for runs that only fail, which cost little: here it takes a model that answers nothing."""

MULTIPLE: Final = 20.0
"""Of its prediction that a batch may run."""
LEAST: Final = 60.0
"""Seconds that every batch may run, whatever was predicted: the first one of a shape may compile something, and what the short ones
before it took says little of a request whose content makes it long."""


@dataclasses.dataclass(slots=True)
class _Cap:
    rows: int
    since: float


class Caps:
    """The most rows per batch, by shape class, that memory is known to be enough for.

    Args:
        max_rows: of any batch; a cap that has grown to this is forgotten.
    """

    __slots__ = ("_caps", "_max_rows")

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._caps: dict[Hashable, _Cap] = {}

    def __bool__(self) -> bool:
        return bool(self._caps)

    def exceeded(self, shape_class: Hashable, rows: int, now: float) -> int:
        """A batch of so many rows ran out of memory; returns the new cap."""
        cap = max(1, rows // 2)
        known = self._caps.pop(shape_class, None)
        if known is not None:
            cap = min(cap, known.rows)
        elif len(self._caps) >= MAX_SHAPES:
            del self._caps[next(iter(self._caps))]
        self._caps[shape_class] = _Cap(cap, now)
        return cap

    def cap(self, shape_class: Hashable, now: float) -> int | None:
        """The most rows to run at once; None for no cap."""
        known = self._caps.get(shape_class)
        while known is not None and now - known.since >= RECOVERY:
            known.since += RECOVERY
            known.rows += max(1, known.rows // 8)
            if known.rows >= self._max_rows:
                del self._caps[shape_class]
                known = None
        return None if known is None else known.rows


def parts(items: Iterable[S], cap: int | None, alone: Sequence[S] = ()) -> list[tuple[S, ...]]:
    """The items in order, in parts of at most `cap` rows (an item that has more runs alone); last, each of `alone` by itself."""
    suspects = set(map(id, alone))
    made: list[tuple[S, ...]] = []
    part: list[S] = []
    rows = 0
    for item in items:
        if id(item) in suspects:
            continue
        if part and cap is not None and rows + item.rows > cap:
            made.append(tuple(part))
            part, rows = [], 0
        part.append(item)
        rows += item.rows
    if part:
        made.append(tuple(part))
    return made + [(item,) for item in alone]


class Flood:
    """Whether nearly everything that runs is to blame: then nobody is, and the model is broken.

    Args:
        share: of all that was run; with more of them blamed it is a flood.
    """

    __slots__ = ("_blamed", "_events", "_innocent", "_share")

    def __init__(self, share: float) -> None:
        self._share = share
        self._events: collections.deque[tuple[float, int, int]] = collections.deque()
        self._blamed = 0
        self._innocent = 0

    def note(self, now: float, blamed: int, innocent: int) -> None:
        """So many requests were found to blame, or ran well."""
        if self._events and now - self._events[-1][0] < 0.1:  # few events, however many batches run
            at, more_blamed, more_innocent = self._events.pop()
            self._events.append((at, more_blamed + blamed, more_innocent + innocent))
        else:
            self._events.append((now, blamed, innocent))
        self._blamed += blamed
        self._innocent += innocent
        self._forget(now)

    def rising(self, now: float) -> bool:
        """Whether to stop blaming requests."""
        self._forget(now)
        return self._blamed >= MANY and self._blamed > self._share * (self._blamed + self._innocent)

    def _forget(self, now: float) -> None:
        while self._events and self._events[0][0] <= now - WINDOW:
            _, blamed, innocent = self._events.popleft()
            self._blamed -= blamed
            self._innocent -= innocent


def time_limit(stated: float | None, predicted: float | None, deadline: float | None = None) -> float:
    """Seconds after which a batch hangs. Only a stated limit is stricter than what the batch's callers are willing to wait.

    Args:
        stated: see `stated_limit`.
        predicted: seconds that it should take; None where nothing is known.
        deadline: seconds from its begin to the latest deadline in it; None where none has one.
    """
    if stated is not None:
        return stated
    return max(LEAST, MULTIPLE * (predicted or 0.0), deadline or 0.0)
