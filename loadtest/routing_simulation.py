"""Routing by queue against spreading, simulated: open-loop callers, gateways with the real `Router`, workers with the real
`DynamicBatcher`, and heartbeats that arrive late. No clock and no I/O: the same arguments give the same result.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import heapq
import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal

from gateway.routing.loads import WorkerLoad, worker_load
from gateway.routing.router import PartitionRows, Router
from loadtest.arrivals import poisson
from protocol.messages import Heartbeat, ModelLoad, ModelState
from protocol.model_config.batching import DynamicBatching
from workers.batching.dynamic import DynamicBatcher
from workers.batching.types import Batch, Item

TOPIC: Final = "penstock.infer.m.1"
_WARMUP: Final = 0.1
"""Part of the requests that is not counted."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """What is simulated. Times are in seconds.

    Attributes:
        load: share of the workers' capacity at full batches.
        routing: as the gateway's setting.
        workers, gateways, partitions: how many.
        max_batch: rows.
        per_batch, per_row: a batch of n rows takes `per_batch + n * per_row`.
        delay: the model's `max_queue_delay`.
        slowness: by worker, how many times as long its batches take.
        rows: of each request, chosen at random.
        outward, homeward: from a gateway to a worker's queue, and from a batch's end to the gateway.
        beat: between two heartbeats of a worker, and between two readings by a gateway.
        requests: in all.
        gone: when the last worker ends without a word; what it has is never answered.
    """

    load: float
    routing: Literal["queue", "spread"] = "queue"
    workers: int = 2
    gateways: int = 1
    partitions: int = 4
    max_batch: int = 8
    per_batch: float = 0.010
    per_row: float = 0.0
    delay: float = 0.0
    slowness: tuple[float, ...] = ()
    rows: tuple[int, ...] = (1,)
    outward: float = 0.0
    homeward: float = 0.0
    beat: float = 0.5
    requests: int = 20_000
    gone: float | None = None

    @property
    def rate(self) -> float:
        """Requests per second."""
        full = self.per_batch + self.max_batch * self.per_row
        speed = sum(self.max_batch / full / self.slow(worker) for worker in range(self.workers))
        return self.load * speed / (sum(self.rows) / len(self.rows))

    def slow(self, worker: int) -> float:
        """How many times as long the worker's batches take."""
        return self.slowness[worker] if self.slowness else 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What the callers saw, and what the workers ran.

    Attributes:
        mean_batch: rows per batch.
        p50, p99: seconds from a request to its answer.
        shares: of all rows, by worker.
        unanswered: requests.
    """

    mean_batch: float
    p50: float
    p99: float
    shares: tuple[float, ...]
    unanswered: int


@dataclasses.dataclass(slots=True)
class _Request:
    at: float
    rows: int
    counted: PartitionRows


class _Worker:
    """The batcher, and one instance with at most one batch staged behind it, as the real runner has."""

    def __init__(self, number: int, scene: Scene) -> None:
        self.name = f"w{number}"
        self.partitions = tuple(
            range(number * scene.partitions // scene.workers, (number + 1) * scene.partitions // scene.workers)
        )
        self.batcher: DynamicBatcher[_Request] = DynamicBatcher(
            scene.max_batch, DynamicBatching(max_queue_delay=scene.delay)
        )
        self.running: Batch[_Request] | None = None
        self.staged: Batch[_Request] | None = None
        self.ran: collections.Counter[int] = collections.Counter()
        self.dead = False
        self._slow = scene.slow(number)
        self._scene = scene

    def seconds(self, rows: int) -> float:
        """Of a batch."""
        return (self._scene.per_batch + rows * self._scene.per_row) * self._slow

    @property
    def rows(self) -> int:
        """That it has begun to run."""
        return sum(rows * count for rows, count in self.ran.items())

    def load(self) -> ModelLoad:
        """As its heartbeat has it."""
        sizes = [
            {"batch_size": rows, "compute_infer": {"count": count, "ns": round(count * self.seconds(rows) * 1e9)}}
            for rows, count in self.ran.items()
        ]
        running = sum(batch.rows for batch in (self.running, self.staged) if batch is not None)
        return ModelLoad(
            "m", "1", ModelState.READY, self.partitions, self.batcher.rows, self.batcher.depth, running,
            statistics={"batch_stats": sizes, "inference_count": self.rows},
        )  # fmt: skip


class _Capacity:
    """`Capacity`: the heartbeats that a gateway has read."""

    def __init__(self, scene: Scene) -> None:
        self.revision = 0
        self._partitions = scene.partitions
        self._loads: list[WorkerLoad] = []

    def read(self, loads: Iterable[WorkerLoad]) -> None:
        """The last heartbeat of each worker."""
        self._loads = list(loads)
        self.revision += 1

    def partitions(self, topic: str) -> int:
        """See `Capacity`."""
        return self._partitions

    def workers(self, topic: str) -> Sequence[WorkerLoad]:
        """See `Capacity`."""
        return self._loads


class _Gateway:
    def __init__(self, scene: Scene, seed: str) -> None:
        self.capacity = _Capacity(scene)
        self.router = Router(self.capacity, random.Random(seed), 2.0)
        self._turn = random.Random(seed).randrange(scene.partitions)
        self._scene = scene

    def partition(self, rows: int, now: float) -> PartitionRows:
        """For the next request, which is counted there."""
        chosen = self.router.choose(TOPIC, rows, rows, now) if self._scene.routing == "queue" else None
        if chosen is None:
            self._turn += 1
            chosen = self._turn % self._scene.partitions
        return self.router.sent(TOPIC, chosen, rows)


class _Simulation:
    def __init__(self, scene: Scene, seed: int) -> None:
        self.scene = scene
        self.random = random.Random(f"scene {seed}")
        self.gateways = [_Gateway(scene, f"gateway {seed} {number}") for number in range(scene.gateways)]
        self.workers = [_Worker(number, scene) for number in range(scene.workers)]
        self.owners = {partition: worker for worker in self.workers for partition in worker.partitions}
        self.directory: dict[str, WorkerLoad] = {}
        self.latencies: list[float] = []
        self.now = 0.0
        self.sent = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._arrivals = poisson(scene.rate, seed)

    def run(self) -> Outcome:
        """Until everything is answered that will be."""
        self._at(next(self._arrivals), self._arrive)
        for worker in self.workers:
            self._at(self._phase(), functools.partial(self._beat, worker))
        for gateway in self.gateways:
            self._at(self._phase(), functools.partial(self._read, gateway))
        if self.scene.gone is not None:
            self._at(self.scene.gone, self._kill)
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()
        return self._outcome()

    def _phase(self) -> float:
        return self.random.random() * self.scene.beat

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    def _arrive(self) -> None:
        self.sent += 1
        if self.sent < self.scene.requests:
            self._at(next(self._arrivals), self._arrive)
        gateway, rows = self.random.choice(self.gateways), self.random.choice(self.scene.rows)
        request = _Request(self.now, rows, gateway.partition(rows, self.now))
        name = str(self.sent)
        self._at(self.now + self.scene.outward, lambda: self._queue(request, name))

    def _queue(self, request: _Request, name: str) -> None:
        worker = self.owners[request.counted.number]
        if not worker.dead:
            worker.batcher.add(Item(name, request.rows, None, request, self.now, request.at), self.now)
            self._turn(worker)

    def _turn(self, worker: _Worker) -> None:
        if worker.dead:
            return
        while worker.staged is None and (batch := worker.batcher.take(self.now, idle=worker.running is None)):
            if worker.running is None:
                self._start(worker, batch)
            else:
                worker.staged = batch
        wake = worker.batcher.wake_at() if worker.running is None else None
        if wake is not None:
            self._at(max(wake, self.now), lambda: self._turn(worker))

    def _start(self, worker: _Worker, batch: Batch[_Request]) -> None:
        worker.running = batch
        worker.ran[batch.rows] += 1
        self._at(self.now + worker.seconds(batch.rows), lambda: self._end(worker, batch))

    def _end(self, worker: _Worker, batch: Batch[_Request]) -> None:
        if worker.dead:
            return
        worker.running, staged, worker.staged = None, worker.staged, None
        if staged is not None:
            self._start(worker, staged)
        self._at(self.now + self.scene.homeward, lambda: self._answer(batch))
        self._turn(worker)

    def _answer(self, batch: Batch[_Request]) -> None:
        for item in batch.items:
            request = item.payload
            request.counted.left(request.rows)
            self.latencies.append(self.now - request.at)

    def _beat(self, worker: _Worker) -> None:
        if worker.dead or self.sent >= self.scene.requests:
            return
        beat = Heartbeat(worker.name, "", "", 0, self.now)
        self.directory[worker.name] = worker_load(beat, worker.load(), self.scene.max_batch, 1)
        self._at(self.now + self.scene.beat, lambda: self._beat(worker))

    def _read(self, gateway: _Gateway) -> None:
        gateway.capacity.read(self.directory.values())
        if self.sent < self.scene.requests:
            self._at(self.now + self.scene.beat, lambda: self._read(gateway))

    def _kill(self) -> None:
        self.workers[-1].dead = True

    def _outcome(self) -> Outcome:
        counted = sorted(self.latencies[int(_WARMUP * len(self.latencies)) :])
        rows = sum(worker.rows for worker in self.workers)
        batches = sum(worker.ran.total() for worker in self.workers)
        return Outcome(
            rows / batches,
            counted[len(counted) // 2],
            counted[int(0.99 * len(counted))],
            tuple(worker.rows / rows for worker in self.workers),
            self.sent - len(self.latencies),
        )


def simulate(scene: Scene, seed: int = 0) -> Outcome:
    """Run a scene."""
    return _Simulation(scene, seed).run()
