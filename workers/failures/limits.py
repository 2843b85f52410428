"""Protects a model from its requests, and requests from a broken model. Pure: time is an argument.

`Caps` keeps batches of a shape below the size that ran out of memory; `CircuitBreaker` opens when nearly everything fails, so that
the model is at fault and not its requests; `time_limit` says when a batch hangs.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Hashable, Iterable, Sequence
from typing import Final

from workers.failures.bisection import S

CAP_RECOVERY: Final = 30.0
"""Seconds after which a cap is raised by an eighth, if nothing ran out of memory."""
MAX_SHAPES: Final = 64

WINDOW: Final = 60.0
"""Seconds over which blamed and innocent requests are counted."""
MIN_BLAMED: Final = 8
"""Requests blamed within the window below which the breaker stays closed."""
MAX_DEATHS_SHARE: Final = 0.8
"""Share of requests blamed for deaths above which the model is at fault: each death costs all requests a restart."""
MAX_FAILURES_SHARE: Final = 0.98
"""The same for runs that only fail, which cost little: here the model must answer nothing."""

TIME_LIMIT_FACTOR: Final = 20.0
"""A batch may run this many times as long as predicted."""
MIN_TIME_LIMIT: Final = 60.0
"""Seconds that every batch may run, whatever was predicted: the first one of a shape may compile something, and earlier short runs
say little about a request whose content makes it long."""


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
        """A batch of this many rows ran out of memory; returns the new cap."""
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
        while known is not None and now - known.since >= CAP_RECOVERY:
            known.since += CAP_RECOVERY
            known.rows += max(1, known.rows // 8)
            if known.rows >= self._max_rows:
                del self._caps[shape_class]
                known = None
        return None if known is None else known.rows


def into_parts(items: Iterable[S], cap: int | None, run_alone: Sequence[S] = ()) -> list[tuple[S, ...]]:
    """The items in order, in parts of at most `cap` rows (an item with more is a part of its own); last, each of `run_alone`."""
    set_apart = set(map(id, run_alone))
    parts: list[tuple[S, ...]] = []
    part: list[S] = []
    rows = 0
    for item in items:
        if id(item) in set_apart:
            continue
        if part and cap is not None and rows + item.rows > cap:
            parts.append(tuple(part))
            part, rows = [], 0
        part.append(item)
        rows += item.rows
    if part:
        parts.append(tuple(part))
    return parts + [(item,) for item in run_alone]


class CircuitBreaker:
    """Open while nearly every request that runs is to blame: then the model is at fault, and none of them is.

    Args:
        max_share: of all requests that ran; with more of them blamed it is open.
    """

    __slots__ = ("_blamed", "_events", "_innocent", "_max_share")

    def __init__(self, max_share: float) -> None:
        self._max_share = max_share
        self._events: collections.deque[tuple[float, int, int]] = collections.deque()
        self._blamed = 0
        self._innocent = 0

    def record(self, now: float, blamed: int, innocent: int) -> None:
        """Count requests that were blamed, and requests that ran well."""
        if self._events and now - self._events[-1][0] < 0.1:  # few events, however many batches run
            at, more_blamed, more_innocent = self._events.pop()
            self._events.append((at, more_blamed + blamed, more_innocent + innocent))
        else:
            self._events.append((now, blamed, innocent))
        self._blamed += blamed
        self._innocent += innocent
        self._forget(now)

    def is_open(self, now: float) -> bool:
        """Whether to stop blaming requests."""
        self._forget(now)
        return self._blamed >= MIN_BLAMED and self._blamed > self._max_share * (self._blamed + self._innocent)

    def _forget(self, now: float) -> None:
        while self._events and self._events[0][0] <= now - WINDOW:
            _, blamed, innocent = self._events.popleft()
            self._blamed -= blamed
            self._innocent -= innocent


def time_limit(stated: float | None, predicted: float | None, deadline: float | None = None) -> float:
    """Seconds after which a batch hangs. Only a stated limit may be stricter than the deadlines in the batch.

    Args:
        stated: see `completion.stated_limit`.
        predicted: seconds that it should take; None where nothing was measured.
        deadline: seconds from its start to the latest deadline in it; None where no request has one.
    """
    if stated is not None:
        return stated
    return max(MIN_TIME_LIMIT, TIME_LIMIT_FACTOR * (predicted or 0.0), deadline or 0.0)
