"""Chooses the partition of each published group by the workers' predicted waits. Pure: time is an argument.

The rules, for the live workers of a topic in an order that differs from topic to topic (rendezvous hashing):

- *Gathering*: traffic goes to as few workers, from the first on, as can serve it with a `RESERVE`; one more takes part
  while more rows wait than usual (`SPILL`), or far more than full batches (`DEEP`). Only where larger batches cost hardly more time
  than small ones; else all workers take part.
- *Waits*: the next worker in turn gets the group, unless another one, chosen at random, has a predicted wait that is shorter by
  more than a full batch. Taking turns beats the shortest queue among equal workers: it sends no bursts to the one that has just
  answered a batch. The predicted wait of a worker is the larger of this gateway's own rows there, which it knows exactly, and the
  rows that it reported less those that it has worked off since.
- Of the worker's partitions, the one with the fewest of this gateway's rows.

Without a fresh heartbeat, with one worker, or while nobody is known to own some partition, nothing is chosen: the groups go to the
partitions in turn.

Invariants: only a live worker's partition is chosen; counts never fall below zero, whatever is reported in whichever order; a
choice costs the same however many rows wait, and at most the logarithm of the number of workers.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
import random
from collections.abc import Iterable, Sequence
from typing import Final

from gateway.routing.capacity import Capacity
from gateway.routing.loads import WorkerLoad

RESERVE: Final = 0.62
"""A worker whose full batch has n rows is given its speed less this part divided by the square root of n, before the next one takes
part: arrivals vary more, relative to a batch, where batches are small."""
SPILL: Final = 0.85
"""Rows above the usual number, in full batches, from which one more worker takes part."""
DEEP: Final = 3.0
"""Rows in all, in full batches, from which one more worker takes part."""
SMALL: Final = 8
"""Requests are small, and fill batches without gaps, if none has more than a full batch's rows divided by this."""
SLOWER: Final = 0.75
"""A worker below this part of the fastest one's speed comes after the others."""
JUMP: Final = 3.0
"""A rate whose rows in an interval differ from the mean by this many standard deviations has changed."""
_USUAL: Final = 8
"""Full batches of rows over which the usual number of waiting rows is averaged."""
_LEAST, _MOST, _ROWS = 0.03, 0.3, 300
"""Weight of the newest interval in means: its rows divided by `_ROWS`, within these bounds. Few rows say little."""
_ALONE: Final = 0.15
"""Others that send less than this part of what this gateway sends cannot be told from none."""
_MOST_SHARE: Final = 64.0
_KNOWN_AFTER: Final = 4
"""Intervals after which rates are known."""
_LOOKED_AT: Final = 8
"""Partitions of a worker that are compared."""
_MAX_TOPICS: Final = 4096


class _Worker:
    """A live worker, as one topic sees it.

    Attributes:
        own: this gateway's rows in its partitions.
        ahead: seconds by which a full batch outweighs taking turns.
    """

    __slots__ = ("ahead", "at", "full", "own", "partitions", "rows", "speed", "turn")

    def __init__(self, load: WorkerLoad, speed: float) -> None:
        self.partitions: list[PartitionRows] = []
        self.full = max(1, load.full)
        self.speed = speed
        self.ahead = self.full / speed
        self.rows = load.rows
        self.at = load.at
        self.own = 0
        self.turn = 0

    def wait(self, now: float) -> float:
        """Predicted seconds until a new row is run."""
        reported = self.rows / self.speed - max(0.0, now - self.at)
        own = self.own / self.speed
        return own if own > reported else reported


class _Traffic:
    """Rates of one topic, measured between two readings of the heartbeats.

    Attributes:
        own: this gateway's rows that wait for their answers.
        sent, left: this gateway's rows since the last reading.
        rate: rows per second that this gateway sends.
        others: rows per second that workers run besides; other gateways and producers send them.
        share: how many times this gateway's rows all rows are.
        largest: rows of the largest request, in this interval or the one before.
    """

    __slots__ = (
        "_executed", "_intervals", "_largest", "_since", "largest", "left", "others", "own", "rate", "sent", "share",
    )  # fmt: skip

    def __init__(self) -> None:
        self.own = self.sent = self.left = 0
        self.rate = self.others = 0.0
        self.share = 1.0
        self.largest = self._largest = 1
        self._since: float | None = None
        self._executed: dict[str, int] = {}
        self._intervals = 0

    @property
    def known(self) -> bool:
        """Whether there were enough intervals."""
        return self._intervals >= _KNOWN_AFTER

    def measure(self, loads: Iterable[WorkerLoad], now: float) -> None:
        """An interval has passed."""
        executed = {load.worker: load.executed for load in loads}
        if self._since is not None and now > self._since:
            seconds = now - self._since
            ran = sum(max(0, rows - self._executed.get(worker, rows)) for worker, rows in executed.items())
            self.rate = _moved(self.rate, self.sent, self.sent, seconds)
            self.others = max(0.0, _moved(self.others, ran - self.left, ran + self.left, seconds))
            self.share = 1.0
            if self.rate and self.others > _ALONE * self.rate:
                self.share = min((self.rate + self.others) / self.rate, _MOST_SHARE)
            self._intervals += 1
        self.sent = self.left = 0
        self._since, self._executed = now, executed
        self.largest, self._largest = self._largest, 1  # a size is forgotten in the second interval without it

    def see(self, largest: int) -> None:
        """A request is larger than those before."""
        self.largest = self._largest = largest


def _moved(mean: float, rows: int, counted: int, seconds: float) -> float:
    """The mean rate after an interval with these rows; a difference beyond chance replaces it at once.

    Args:
        counted: rows whose number varies by chance.
    """
    expected = mean * seconds
    if abs(rows - expected) > JUMP * math.sqrt(max(counted, expected, 1.0)):
        return rows / seconds
    return mean + min(max(counted / _ROWS, _LEAST), _MOST) * (rows / seconds - mean)


class PartitionRows:
    """This gateway's rows in one partition.

    Attributes:
        number: of the partition.
        rows: that wait for their answers.
    """

    __slots__ = ("_traffic", "number", "owner", "rows")

    def __init__(self, number: int, traffic: _Traffic) -> None:
        self.number = number
        self.rows = 0
        self.owner: _Worker | None = None
        self._traffic = traffic

    def left(self, rows: int) -> None:
        """Count rows out that were answered, given up, or not published after all."""
        held = self.rows
        if rows > held:
            rows = held
        self.rows = held - rows
        traffic = self._traffic
        traffic.own -= rows
        traffic.left += rows
        if self.owner is not None:
            self.owner.own -= rows


class _Topic:
    """What the router knows about one topic.

    Attributes:
        partitions: with rows of this gateway, now or since the last refresh, or with a live owner.
        workers: that are live, in the topic's order.
        fulls: rows of a full batch of the first, of the first two, … of all workers.
        base: how many workers the rate needs.
        usual: moving mean of the rows that wait.
        gathers: whether fewer than all workers may take part.
        least_ahead: the shortest full batch, in seconds; no worker with a shorter wait is passed over.
    """

    __slots__ = (
        "base", "fulls", "gathers", "least_ahead", "partitions", "ranks", "reported", "reported_at", "revision", "speed", "stale",
        "traffic", "turn", "usual", "weight", "workers",
    )  # fmt: skip

    def __init__(self) -> None:
        self.revision = -1
        self.stale = math.inf
        self.partitions: dict[int, PartitionRows] = {}
        self.ranks: dict[str, bytes] = {}
        self.workers: list[_Worker] = []
        self.fulls: list[int] = []
        self.gathers = False
        self.least_ahead = 0.0
        self.base = 1
        self.weight = 0.0
        self.usual = 0.0
        self.reported = 0
        self.reported_at = 0.0
        self.speed = 1.0
        self.traffic = _Traffic()
        self.turn = 0


class Router:
    """Chooses partitions.

    Args:
        capacity: what is known about the workers.
        dice: for the second worker that each choice compares.
        live: seconds after its last heartbeat for which a worker counts as live.
    """

    def __init__(self, capacity: Capacity, dice: random.Random, live: float) -> None:
        self._capacity = capacity
        self._random = dice.random
        self._live = live
        self._topics: dict[str, _Topic] = {}

    def choose(self, topic: str, rows: int, largest: int, now: float) -> int | None:
        """The partition for a group; None if the topic's partitions should take turns.

        Args:
            rows: of the group.
            largest: rows of its largest request.
            now: on the store's clock.
        """
        state = self._topics.get(topic) or self._topic(topic)
        traffic = state.traffic
        traffic.sent += rows
        if largest > traffic.largest:
            traffic.see(largest)
        if state.revision != self._capacity.revision or now >= state.stale:
            self._refresh(topic, state, now)
        workers = state.workers
        if not workers:
            return None
        count = _taking_part(state, rows, now) if state.gathers else len(workers)
        state.turn = turn = state.turn + 1
        chosen = workers[turn % count]
        if count > 1 and (wait := chosen.wait(now)) > state.least_ahead:
            other = workers[(turn + 1 + int(self._random() * (count - 1))) % count]
            if other.wait(now) + other.ahead < wait:
                chosen = other
        return _least_loaded(chosen)

    def sent(self, topic: str, partition: int, rows: int) -> PartitionRows:
        """Count rows that were published, or are about to be; returns where they count, to count them out there."""
        state = self._topics.get(topic) or self._topic(topic)
        counted = state.partitions.get(partition)
        if counted is None:
            counted = state.partitions[partition] = PartitionRows(partition, state.traffic)
        counted.rows += rows
        state.traffic.own += rows
        if counted.owner is not None:
            counted.owner.own += rows
        return counted

    def outstanding(self, topic: str) -> dict[int, int]:
        """This gateway's rows that wait for their answers, by partition."""
        state = self._topics.get(topic)
        return {} if state is None else {p: of.rows for p, of in state.partitions.items() if of.rows}

    def _topic(self, topic: str) -> _Topic:
        state = self._topics.get(topic)
        if state is None:
            if len(self._topics) >= _MAX_TOPICS:
                self._topics = {name: kept for name, kept in self._topics.items() if kept.traffic.own}
            state = self._topics[topic] = _Topic()
        return state

    def _refresh(self, topic: str, state: _Topic, now: float) -> None:
        """Take over what is known now."""
        capacity = self._capacity
        count = capacity.partitions(topic)
        loads = [(load, [p for p in load.partitions if 0 <= p < count]) for load in capacity.workers(topic)]
        if state.revision != capacity.revision:
            state.revision = capacity.revision
            state.traffic.measure([load for load, _ in loads], now)
        usable = [(load, own) for load, own in loads if own and self._serves(load, now)]
        state.stale = min((load.at + self._live for load, _ in usable), default=math.inf)
        if len({partition for _, own in loads for partition in own}) < count or len(usable) == len(loads) == 1:
            usable = []
        _place_workers(topic, state, usable, now)

    def _serves(self, load: WorkerLoad, now: float) -> bool:
        """Whether a worker is alive and takes requests. A heartbeat of the future, by a wrong clock, is as bad as an old one."""
        return not load.draining and abs(now - load.at) <= self._live


def _place_workers(topic: str, state: _Topic, usable: Sequence[tuple[WorkerLoad, Sequence[int]]], now: float) -> None:
    """Put the workers in the topic's order, with this gateway's rows in each."""
    ranks = state.ranks = {load.worker: state.ranks.get(load.worker) or _rank(topic, load.worker) for load, _ in usable}
    known = [load.speed for load, _ in usable if load.speed > 0]
    mean_speed = sum(known) / len(known) if known else 1.0
    fast = SLOWER * max(known, default=0.0)
    state.workers = []
    state.partitions = {number: counted for number, counted in state.partitions.items() if counted.rows}
    for counted in state.partitions.values():
        counted.owner = None
    for load, own in sorted(usable, key=lambda each: (0 < each[0].speed < fast, ranks[each[0].worker])):
        worker = _Worker(load, load.speed if load.speed > 0 else mean_speed)
        state.workers.append(worker)
        for number in own:
            partition = state.partitions.setdefault(number, PartitionRows(number, state.traffic))
            partition.owner = worker
            worker.own += partition.rows
            worker.partitions.append(partition)
    state.least_ahead = min((worker.ahead for worker in state.workers), default=0.0)
    state.fulls = list(itertools.accumulate(worker.full for worker in state.workers))
    state.reported = sum(worker.rows for worker in state.workers)
    state.reported_at = min((worker.at for worker in state.workers), default=now)
    state.speed = sum(worker.speed for worker in state.workers)
    flats = {load.flat for load, _ in usable}
    state.gathers = len(usable) > 1 and True in flats and False not in flats and state.traffic.known
    if state.gathers:
        _plan_gathering(state)


def _plan_gathering(state: _Topic) -> None:
    """How many workers the rate needs."""
    traffic, workers = state.traffic, state.workers
    state.weight = len(workers) / (_USUAL * state.fulls[-1])
    needed, state.base = max(traffic.rate * traffic.share, traffic.others), 1
    for worker in workers[:-1]:
        needed -= worker.speed * (1 - RESERVE / math.sqrt(worker.full))
        if needed <= 0:
            break
        state.base += 1


def _taking_part(state: _Topic, rows: int, now: float) -> int:
    """How many workers, from the first on, share the traffic."""
    everyone = len(state.workers)
    traffic = state.traffic
    if traffic.largest * SMALL * everyone > state.fulls[-1]:
        return everyone
    reported = state.reported - max(0.0, now - state.reported_at) * state.speed
    total = max(traffic.own * traffic.share, reported) + rows
    above = total - state.usual
    state.usual += min(1.0, rows * state.weight) * above
    crowd = bisect.bisect_left(state.fulls, max(above / SPILL, total / DEEP)) + 1
    return min(max(crowd, state.base), everyone)


def _least_loaded(worker: _Worker) -> int:
    """The partition with the fewest of this gateway's rows, of a few from the next one on."""
    partitions = worker.partitions
    count = len(partitions)
    worker.turn += 1
    best = partitions[worker.turn % count]
    if best.rows:
        for step in range(1, min(count, _LOOKED_AT)):
            other = partitions[(worker.turn + step) % count]
            if other.rows < best.rows:
                best = other
    return best.number


def _rank(topic: str, worker: str) -> bytes:
    """Rendezvous hashing: a worker that joins or leaves changes the order of no others."""
    return hashlib.blake2b(f"{topic}\n{worker}".encode(errors="replace"), digest_size=8).digest()
