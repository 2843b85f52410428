"""The queue in front of a batcher: priority levels, bounds, queue timeouts and deadlines (Triton's `ModelQueuePolicy`).

Invariants: service order is level by level, 1 first; within a level first come, first served, then the items that a DELAY timeout
moved back, in the order of their timeouts. `pop` never returns an item that was due when `settle` was last called. Every operation
except iteration costs O(1) or O(log n).
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from protocol.errors import Code
from protocol.model_config.batching import DynamicBatching, QueuePolicy, TimeoutAction
from workers.batching.types import Item, Reject, Rejection

T = TypeVar("T")

_ONLY_LEVEL: Final = 0


class _Level(Generic[T]):
    """One priority level: items in time, then those whose DELAY timeout has passed."""

    __slots__ = ("_allowed", "_default", "delayed", "delays", "fresh", "limit", "timed")

    def __init__(self, policy: QueuePolicy) -> None:
        self.fresh: OrderedDict[str, Item[T]] = OrderedDict()
        self.delayed: OrderedDict[str, Item[T]] = OrderedDict()
        self.limit = policy.max_queue_size
        self.delays = policy.timeout_action == TimeoutAction.DELAY
        self.timed = policy.default_timeout > 0 or policy.allow_timeout_override
        self._default = policy.default_timeout
        self._allowed = policy.allow_timeout_override

    def __len__(self) -> int:
        return len(self.fresh) + len(self.delayed)

    def timeout_at(self, item: Item[T]) -> float:
        """When the item's queue timeout passes; infinity for never."""
        timeout = self._default or math.inf
        if self._allowed and item.timeout:
            timeout = min(timeout, item.timeout)
        return item.enqueued + timeout


class PolicyQueue(Generic[T]):
    """Queued items of one model version in service order.

    One rule differs from Triton's: where `allow_timeout_override` is set and there is no default timeout, a request's own
    timeout counts. Triton compares it with the default of 0 and so ignores it silently, which is not what the setting promises. A
    timeout longer than the default is ignored, as in Triton.

    Attributes:
        rows, nbytes: sums over the queued items.
        immediate: the policy has no timeout, override, bound or priority, so it does not matter when an item leaves the queue.
            Otherwise items stay in the queue until an instance is free, as in Triton.
        changes: grows whenever the service order changes in any way but by an item at its end.
    """

    __slots__ = (
        "_due", "_expired", "_in_arrival_order", "_levels", "_numbers", "_only", "_places", "_policy", "changes", "immediate",
        "nbytes", "rows",
    )  # fmt: skip

    def __init__(self, policy: DynamicBatching) -> None:
        self.rows = 0
        self.nbytes = 0
        self.changes = 0
        self._policy = policy
        self._places: dict[str, _Level[T]] = {}
        self._levels: dict[int, _Level[T]] = {}
        self._numbers: list[int] = []
        self._due: list[tuple[float, str]] = []
        self._expired: list[Item[T]] = []
        only = policy.default_queue_policy
        plain = policy.priority_levels == 0
        self._only = self._open(_ONLY_LEVEL, only) if plain else None
        self._in_arrival_order = plain and only.timeout_action != TimeoutAction.DELAY
        self.immediate = plain and not (only.default_timeout or only.allow_timeout_override or only.max_queue_size)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Item[T]]:
        """The items in service order."""
        for number in self._numbers:
            level = self._levels[number]
            yield from level.fresh.values()
            yield from level.delayed.values()

    def add(self, item: Item[T], now: float) -> Rejection | None:
        """Queue the item, unless its ref is queued already or its level is full of items that are not due yet."""
        ref = item.ref
        if ref in self._places:
            return Rejection(Reject.DUPLICATE, Code.ALREADY_EXISTS, f"request '{ref}' is queued already")
        level = self._only
        if level is None:
            level = self._level(item.priority)
        if level.limit and len(level) >= level.limit:
            self.settle(now)
            level = self._level(item.priority)
            if len(level) >= level.limit:
                message = f"Exceeds maximum queue size of {level.limit} requests; try again later"
                return Rejection(Reject.QUEUE_FULL, Code.EXHAUSTED, message)
        level.fresh[ref] = item
        self._places[ref] = level
        self.rows += item.rows
        self.nbytes += item.nbytes
        if item.deadline is not None:
            self._remind(item.deadline, ref)
        if level.timed:
            self._remind(level.timeout_at(item), ref)
        if not self._in_arrival_order:
            self.changes += 1
        return None

    def first(self) -> Item[T] | None:
        """The item that is served next."""
        return next(iter(self), None) if self._numbers else None

    def pop(self, count: int) -> list[Item[T]]:
        """Remove and return the first `count` items, which must be there."""
        items: list[Item[T]] = []
        places = self._places
        rows = nbytes = 0
        while count:
            number = self._numbers[0]
            level = self._levels[number]
            items_here = level.fresh or level.delayed
            here = min(count, len(items_here))
            for _ in range(here):
                ref, item = items_here.popitem(False)
                del places[ref]
                rows += item.rows
                nbytes += item.nbytes
                items.append(item)
            count -= here
            self._close_if_empty(number)
        self.rows -= rows
        self.nbytes -= nbytes
        self.changes += 1
        return items

    def cancel(self, ref: str) -> Item[T] | None:
        """Remove one item, wherever it is in the queue."""
        level = self._places.pop(ref, None)
        if level is None:
            return None
        item = level.fresh.pop(ref, None)
        if item is None:
            item = level.delayed.pop(ref)
        self.changes += 1
        self.rows -= item.rows
        self.nbytes -= item.nbytes
        self._close_if_empty(self._number(item.priority))
        return item

    def settle(self, now: float) -> None:
        """Apply every deadline and timeout that is due."""
        while self._due and self._due[0][0] <= now:
            _, ref = heapq.heappop(self._due)
            self._apply(ref, now)

    def expired(self) -> list[Item[T]]:
        """Items that `settle` removed since the last call."""
        if not self._expired:
            return []
        expired, self._expired = self._expired, []
        return expired

    def next_due(self) -> float | None:
        """When `settle` is next needed; minus infinity while `expired` has items."""
        if self._expired:
            return -math.inf
        while self._due:
            when, ref = self._due[0]
            if self._is_current(when, ref):
                return when
            heapq.heappop(self._due)
        return None

    def _apply(self, ref: str, now: float) -> None:
        level = self._places.get(ref)
        if level is None:
            return
        item = level.fresh.get(ref)
        timed_out = item is not None and level.timed and level.timeout_at(item) <= now
        if item is None:
            item = level.delayed[ref]
        if item.late(now) or (timed_out and not level.delays):
            self.cancel(ref)
            self._expired.append(item)
        elif timed_out:
            level.delayed[ref] = level.fresh.pop(ref)
            self.changes += 1

    def _remind(self, when: float, ref: str) -> None:
        """Note a due time. Those of items that left stay until they are due or are most of the heap: memory follows depth."""
        if when == math.inf:
            return
        heapq.heappush(self._due, (when, ref))
        if len(self._due) > 4 * len(self._places) + 64:
            self._due = [entry for entry in self._due if self._is_current(*entry)]
            heapq.heapify(self._due)

    def _is_current(self, when: float, ref: str) -> bool:
        level = self._places.get(ref)
        if level is None:
            return False
        item = level.fresh.get(ref)
        if item is None:
            return level.delayed[ref].deadline == when
        return item.deadline == when or (level.timed and level.timeout_at(item) == when)

    def _number(self, priority: int) -> int:
        levels = self._policy.priority_levels
        if levels == 0:
            return _ONLY_LEVEL
        return priority if 1 <= priority <= levels else self._policy.default_priority_level

    def _level(self, priority: int) -> _Level[T]:
        number = self._number(priority)
        level = self._levels.get(number)
        return level if level is not None else self._open(number, self._policy.queue_policy(number))

    def _open(self, number: int, policy: QueuePolicy) -> _Level[T]:
        """Levels exist while they hold items: a model may declare 2**63 of them."""
        level: _Level[T] = _Level(policy)
        self._levels[number] = level
        bisect.insort(self._numbers, number)
        return level

    def _close_if_empty(self, number: int) -> None:
        if number != _ONLY_LEVEL and not self._levels[number]:
            del self._levels[number]
            del self._numbers[bisect.bisect_left(self._numbers, number)]
