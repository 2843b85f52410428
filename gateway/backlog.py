"""Unanswered requests: what live workers hold or have yet to read, and what waits in partitions that no live worker owns. Pure.

Routing, scaling, refusals (`Retry-After`) and `penstock status` count with these functions. The committed lag of a group counts too
much: a record is committed only after all records before it, so answered, cancelled and expired ones above the committed offset
still count. Workers say what they hold and what they have not read; the lag counts only for partitions without a worker.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Final

from protocol.messages import Lane, ModelLoad

MAX_COUNT: Final = 10**9
"""Larger numbers in a heartbeat cannot be true."""
MAX_AGE: Final = 30 * 24 * 3600.0
"""Seconds. Older requests are not believed to be so old."""


@dataclasses.dataclass(frozen=True, slots=True)
class Backlog:
    """Unanswered requests of one lane of a model version.

    Attributes:
        requests: how many.
        rows: that they have.
        oldest_age: seconds since the oldest was published; None if unknown, 0 without requests.
    """

    requests: int = 0
    rows: int = 0
    oldest_age: float | None = 0.0

    def __add__(self, other: Backlog) -> Backlog:
        ages = [part.oldest_age for part in (self, other) if part.requests]
        known = [age for age in ages if age is not None]
        oldest = max(known, default=None) if ages else 0.0
        return Backlog(self.requests + other.requests, self.rows + other.rows, oldest)


NOTHING: Final = Backlog()


@dataclasses.dataclass(frozen=True, slots=True)
class LogFacts:
    """What the log of one topic says.

    Attributes:
        unread: by partition, records between the offset where its group goes on and the log's end.
        rows_per_request: of records that were looked at, at least 1.
        published: when the oldest of the unread records was published, by partition.
    """

    unread: Mapping[int, int]
    rows_per_request: float = 1.0
    published: Mapping[int, float] = dataclasses.field(default_factory=dict)


def held(load: ModelLoad, lane: Lane, full: int, draining: bool, rows_per_request: float = 1.0) -> Backlog:
    """The unanswered requests of the partitions that a live worker owns.

    Args:
        load: of its heartbeat.
        full: rows of a full batch on each of its instances, at least 1.
        draining: whether it takes no new requests: what it has not read then waits in the log.
        rows_per_request: of records that it has not read, if it holds none of this lane.

    A worker of a version that does not say what it has not read is taken to have read all, unless its queue is full.
    """
    if load.unanswered is not None:
        return _told(load, lane, rows_per_request)
    if lane is Lane.BATCH:
        return _held_batch(load, rows_per_request)
    queued_rows, lag = count(load.queued_rows), count(load.lag)
    queued = max(count(load.queued_requests), int(queued_rows > 0))
    each = max(1.0, queued_rows / queued) if queued else max(1.0, rows_per_request)
    running = count(load.running_rows) if lag or not count(load.batch_lag) else 0
    requests = queued + _ceil(running / each)
    rows = queued_rows + running
    if draining or is_full(load, full):
        unread = max(0, lag - requests)
        requests, rows = requests + unread, rows + round(unread * each)
    return Backlog(requests, min(rows, MAX_COUNT), age(load.oldest_age) if requests else 0.0)


def _told(load: ModelLoad, lane: Lane, rows_per_request: float) -> Backlog:
    """What the worker says itself. Requests whose answers are being stored have no rows left."""
    batch_running = count(load.batch_running_rows)
    if lane is Lane.BATCH:
        here, unread, oldest = count(load.batch_unanswered), count(load.batch_unread), age(load.batch_oldest_age)
        rows = count(load.batch_queued_rows) + batch_running
    else:
        here, unread, oldest = count(load.unanswered), count(load.unread), age(load.oldest_age)
        rows = count(load.queued_rows) + max(0, count(load.running_rows) - batch_running)
    here = max(here, int(rows > 0))
    each = max(1.0, rows / here if rows else rows_per_request)
    rows = min(rows + round(unread * each), MAX_COUNT)
    return Backlog(here + unread, rows, oldest if here else None if unread else 0.0)


def is_full(load: ModelLoad, full: int) -> bool:
    """Whether a worker has as much as it takes in: each instance runs a full batch and has the next one, and more is queued."""
    return count(load.queued_rows) + count(load.running_rows) > 2 * full


def _held_batch(load: ModelLoad, rows_per_request: float) -> Backlog:
    """Of a version that says how many rows the lane has queued and how many records are not committed, not how old they are."""
    lag, queued = count(load.batch_lag), count(load.batch_queued_rows)
    running = count(load.running_rows) if lag and not count(load.lag) else 0
    rows = max(queued + running, round(lag * max(1.0, rows_per_request)))
    requests = max(lag, 1 if rows else 0)
    return Backlog(requests, min(rows, MAX_COUNT), None if requests else 0.0)


def unowned(facts: LogFacts, owned: Collection[int], now: float) -> Backlog:
    """The records of the partitions that no live worker owns.

    Args:
        owned: partitions of live workers.
        now: on the fleet's clock.
    """
    waiting = {partition: n for partition, n in facts.unread.items() if n > 0 and partition not in owned}
    requests = sum(waiting.values())
    if not requests:
        return NOTHING
    known = [facts.published[partition] for partition in waiting if partition in facts.published]
    oldest = min(max(0.0, now - min(known)), MAX_AGE) if known else None
    return Backlog(requests, min(round(requests * max(1.0, facts.rows_per_request)), MAX_COUNT), oldest)


def count(value: object, most: int = MAX_COUNT) -> int:
    """A number of a heartbeat, at most `most`; 0 if it cannot be true."""
    return min(value, most) if type(value) is int and value > 0 else 0


def age(value: object) -> float:
    """Seconds of a heartbeat; 0 if they cannot be true."""
    return min(float(value), MAX_AGE) if isinstance(value, int | float) and 0 < value < MAX_AGE * 1e6 else 0.0


def _ceil(value: float) -> int:
    return -int(-value // 1)
