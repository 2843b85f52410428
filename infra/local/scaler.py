"""Scales worker processes on this machine, in KEDA's place: a client of `externalscaler.ExternalScaler` that starts and stops them.

`Workers` are the processes, `Signal` says how much there is to do, `autoscaler` decides, and `LocalScaler` does it. `PushSignal` is
what `penstock scaler` says: a stream that pushes whether a worker is wanted, and the metric, read at each turn.
Invariants: a worker is stopped with SIGTERM and waited for, so that it finishes what it holds; its exit status is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from infra.local.autoscaler import Reading, Replica, surplus
from infra.local.fleet import FleetProcess
from protocol.proto import message_class

SERVICE: Final = "externalscaler.ExternalScaler"
METRIC: Final = "penstock-workers"
DRAINS_WITHIN: Final = 60.0
"""Seconds that a worker may take to end after SIGTERM."""
_POLL: Final = 0.1
_AGAIN_AFTER: Final = 0.5


class Worker:
    """One worker process. All times are those of `time.perf_counter`.

    Attributes:
        started: when its process was started.
        ready: when it was ready; None until then.
        stopping: when it was asked to end; None until then.
        ended: when it had ended; None until then.
        status: its exit status, once it has ended; negative for a signal.
    """

    def __init__(self, process: FleetProcess) -> None:
        self.process = process
        self.started = time.perf_counter()
        self.ready: float | None = None
        self.stopping: float | None = None
        self.ended: float | None = None
        self.status: int | None = None

    @property
    def name(self) -> str:
        """Unique among the workers of a run."""
        return self.process.name


class Workers:
    """The workers of one group. One that ends by itself is replaced at the next `scale`.

    Args:
        make: builds the process with this name; it is started here.

    Attributes:
        all: that were ever started, in order.
    """

    def __init__(self, make: Callable[[str], FleetProcess]) -> None:
        self._make = make
        self._tasks: set[asyncio.Task[None]] = set()
        self.all: list[Worker] = []

    @property
    def alive(self) -> list[Worker]:
        """Those that are not asked to end."""
        return [worker for worker in self.all if worker.stopping is None and worker.ended is None]

    @property
    def ready(self) -> list[Worker]:
        """Those of `alive` that are ready."""
        return [worker for worker in self.alive if worker.ready is not None]

    def scale(self, wanted: int) -> None:
        """Start or stop workers, and return at once.

        Raises:
            Unavailable: a port was taken meanwhile.
        """
        for worker in self.alive:
            if not worker.process.running:
                self._note_end(worker)
        alive = self.alive
        for _ in range(wanted - len(alive)):
            self._start()
        replicas = [Replica(worker.name, worker.started, worker.ready is not None) for worker in alive]
        names = set(surplus(replicas, wanted))
        for worker in alive:
            if worker.name in names:
                worker.stopping = time.perf_counter()
                self._spawn(self._stop(worker))

    async def settle(self) -> None:
        """Wait until every worker is ready or has ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Stop all of them and wait for it."""
        self.scale(0)
        await self.settle()

    def _start(self) -> None:
        process = self._make(f"worker-{len(self.all) + 1}")
        process.launch()
        worker = Worker(process)
        self.all.append(worker)
        self._spawn(self._watch(worker))

    async def _watch(self, worker: Worker) -> None:
        """Note when it is ready."""
        while worker.stopping is None:
            if not worker.process.running:
                return
            if await asyncio.to_thread(worker.process.answers):
                worker.ready = time.perf_counter()
                return
            await asyncio.sleep(_POLL)

    async def _stop(self, worker: Worker) -> None:
        await asyncio.to_thread(worker.process.stop, DRAINS_WITHIN)
        worker.ended, worker.status = time.perf_counter(), worker.process.status

    @staticmethod
    def _note_end(worker: Worker) -> None:
        """One that has ended by itself."""
        worker.process.stop()
        worker.ended, worker.status = time.perf_counter(), worker.process.status

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Signal(Protocol):
    """Says how much there is to do."""

    async def read(self, replicas: int) -> Reading | None:
        """What it says now, with so many replicas; None while it knows nothing."""
        ...

    async def change(self, within: float) -> None:
        """Return after `within` seconds, or earlier if there is news."""
        ...


class PushSignal:
    """What an external-push scaler says; use as an asynchronous context manager.

    Args:
        address: `HOST:PORT` of its gRPC.
        models: that the workers serve.
        metadata: further keys of the trigger (docs/scaling.md), as texts.

    Attributes:
        active: what it pushed last.
        pushed: when, on `time.perf_counter`.
    """

    def __init__(self, address: str, models: str, **metadata: str) -> None:
        self._address = address
        self._metadata = {"models": models, "scalerAddress": address, **metadata}
        self._news = asyncio.Event()
        self._channel: Any = None
        self._following: asyncio.Task[None] | None = None
        self.active = False
        self.pushed = 0.0

    async def __aenter__(self) -> PushSignal:
        import grpc.aio

        self._channel = grpc.aio.insecure_channel(self._address, [("grpc.use_local_subchannel_pool", 1)])
        self._following = asyncio.get_running_loop().create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self._channel.close()

    async def read(self, replicas: int) -> Reading | None:
        """See `Signal.read`; None while the scaler does not answer, so that nothing changes."""
        import grpc

        request: Any = message_class("externalscaler.GetMetricsRequest")(metricName=METRIC, scaledObjectRef=self._ref())
        call = self._channel.unary_unary(f"/{SERVICE}/GetMetrics")
        try:
            raw = await call(request.SerializeToString(), timeout=5.0)
        except grpc.aio.AioRpcError:
            return None
        response: Any = message_class("externalscaler.GetMetricsResponse").FromString(raw)
        (value,) = response.metricValues
        return Reading(self.active, float(value.metricValueFloat))

    async def change(self, within: float) -> None:
        """See `Signal.change`: a push is news."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._news.wait()
        self._news.clear()

    async def _follow(self) -> None:
        """Read pushes; a stream that breaks is opened again, as KEDA does."""
        import grpc

        kind: Any = message_class("externalscaler.IsActiveResponse")
        while True:
            stream = self._channel.unary_stream(f"/{SERVICE}/StreamIsActive")(self._ref().SerializeToString())
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for raw in stream:
                    self.active, self.pushed = bool(kind.FromString(raw).result), time.perf_counter()
                    self._news.set()
            await asyncio.sleep(_AGAIN_AFTER)

    def _ref(self) -> Any:
        made: Any = message_class("externalscaler.ScaledObjectRef")
        return made(name="workers", namespace="local", scalerMetadata=self._metadata)


class LocalScaler:
    """Keeps as many workers as a signal asks for.

    Args:
        workers: to start and stop.
        signal: that is read.
        decide: the number of workers, from the time, a reading and the number of workers (`Autoscaler.decide`).
        every: seconds between two readings.
    """

    def __init__(
        self,
        workers: Workers,
        signal: Signal,
        decide: Callable[[float, Reading | None, int], int],
        every: float = 1.0,
    ) -> None:
        self._workers = workers
        self._signal = signal
        self._decide = decide
        self._every = every

    async def run(self) -> None:
        """Until it is cancelled. Workers stay as they are then.

        Raises:
            Unavailable: a worker cannot be started.
        """
        while True:
            replicas = len(self._workers.alive)
            reading = await self._signal.read(replicas)
            self._workers.scale(self._decide(time.perf_counter(), reading, replicas))
            await self._signal.change(self._every)
