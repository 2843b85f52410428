"""One served model version in memory, with an instance that a test can hold and count."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from protocol.errors import Unavailable
from protocol.messages import InferReply
from protocol.model_config import ModelConfig
from protocol.model_config.pbtxt import parse
from protocol.ports import Bus, FinishOutcome, ImmediateResults, RequestState, Results, Terminal
from protocol.runtime.clock import Clock
from protocol.tensors import Array
from protocol.transport import Transport
from protocol.transport.embedded.broker import MemoryBroker
from protocol.transport.embedded.memory import MemoryBus, MemoryServer, MemoryStore
from protocol.transport.settings import TransportSettings
from tests.workers.fleet import IDENTITY, NAMES, Caller
from workers.backends.tensor_instance import TensorInstance
from workers.context import Context
from workers.crash_journal import CrashJournal
from workers.instances.executor import ThreadExecutor
from workers.instances.loaded import LoadedModel
from workers.repository.completion import complete
from workers.repository.version import ModelVersion
from workers.retry import Retry
from workers.serving.memory import QueueMemory
from workers.serving.serving import Serving


class Gated(TensorInstance):
    """Outputs are inputs; every batch first waits until the gate is open, and is recorded.

    Attributes:
        gate: open unless a test closes it.
        begun: released once per batch that starts.
        batches: the first value of each row, by batch.
        error: raised instead of an answer.
        threads: where batches ran.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.batches: list[list[float]] = []
        self.error: BaseException | None = None
        self.threads: set[str] = set()
        self.closed = False

    def compute(self, inputs: dict[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        self.threads.add(threading.current_thread().name)
        self.batches.append(inputs["X"].reshape(len(inputs["X"]), -1)[:, 0].tolist())
        self.begun.release()
        assert self.gate.wait(20)
        if self.error is not None:
            raise self.error
        return {"Y": inputs["X"]}

    def close(self) -> None:
        self.closed = True

    async def started(self) -> None:
        """Return once one more batch has started."""
        assert await asyncio.to_thread(self.begun.acquire, True, 10)


def _itself(instance: Gated) -> Gated:
    return instance


class Flaky:
    """A store whose calls fail while a test says so; everything else is the store behind it."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.down = False
        self.refused: list[str] = []
        self.attempted = asyncio.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def _check(self, call: str) -> None:
        if self.down:
            self.refused.append(call)
            self.attempted.set()
            raise Unavailable("the store is down, says the test")

    @property
    def immediate(self) -> ImmediateResults:
        return self

    async def finish(self, answers: Sequence[Terminal]) -> list[FinishOutcome]:
        return self.finish_now(answers)

    def finish_now(self, answers: Sequence[Terminal]) -> list[FinishOutcome]:
        self._check("finish")
        return self._store.finish_now(answers)

    async def look(self, refs: Sequence[str]) -> list[RequestState | None]:
        self._check("look")
        return await self._store.look(refs)

    async def start(self, refs: Sequence[str], worker: str, ttl: float) -> list[int]:
        self._check("start")
        return await self._store.start(refs, worker, ttl)


class Bench:
    """Parts of a worker around one model, by default on its own broker and store."""

    def __init__(self, broker: MemoryBroker | None = None, server: MemoryServer | None = None) -> None:
        self.broker = broker or MemoryBroker(session_timeout=30.0)
        self.server = server or MemoryServer()
        self.store = Flaky(MemoryStore(TransportSettings(), self.server))
        self.bus: Bus = MemoryBus(self.broker)
        self.caller: Caller
        self.serving: list[Serving] = []
        self.instances: list[Gated] = []
        self.clock = Clock()
        self.journal: CrashJournal | None = None
        self.memory: QueueMemory | None = None

    async def open(self) -> None:
        await self.bus.open()
        await self.store.open()  # type: ignore[operator]  # the store's own
        store = MemoryStore(TransportSettings(), self.server)
        transport = Transport(MemoryBus(self.broker), store, store)
        await transport.open()
        self.incarnations = 0
        self.caller = Caller(transport)
        await self.caller.open()

    def context(self, worker: str = "w", results: Results | None = None) -> Context:
        retry = Retry(first=0.001, longest=0.002)
        store: Results = results or self.store  # type: ignore[assignment]  # Flaky is one
        self.incarnations += 1
        incarnation = str(self.incarnations)
        return Context(worker, incarnation, NAMES, self.clock, self.bus, store, retry, 300.0, journal=self.journal)

    async def serve(
        self,
        config: str = IDENTITY,
        *,
        worker: str = "w",
        instances: int = 1,
        partitions: int = 1,
        max_bytes: int = 2**30,
        kind: type[Gated] = Gated,
    ) -> Serving:
        """A version of model m that takes requests."""
        complete_config = complete(parse(config, "config.pbtxt", "m"), None)
        version = ModelVersion("m", 1, Path("/nowhere"), Path("/nowhere"), complete_config, "digest")
        executors = []
        for index in range(instances):
            executor = ThreadExecutor(f"m_0_{index}", self.clock)
            instance = kind(complete_config)
            await executor.load(functools.partial(_itself, instance))
            self.instances.append(instance)
            executors.append(executor)
        serving = Serving(
            self.context(worker), LoadedModel(version, executors, 0.0), self.memory or QueueMemory(max_bytes)
        )
        self.serving.append(serving)
        await self.bus.ensure_topic(serving.topic, partitions)
        await serving.open()
        return serving

    async def hold(self) -> Sequence[asyncio.Future[InferReply]]:
        """Close the gate of the one instance and have it run request 0 behind it: later requests wait."""
        (instance,) = self.instances
        instance.gate.clear()
        first = await self.caller.publish(self.caller.request(0))
        await instance.started()
        return first

    async def close(self) -> None:
        for instance in self.instances:
            instance.gate.set()
        for serving in self.serving:
            await serving.close()
        await self.caller.transport.close()
        await self.bus.close()
        await self.store.close()  # type: ignore[operator]


@asynccontextmanager
async def bench(broker: MemoryBroker | None = None, server: MemoryServer | None = None) -> AsyncIterator[Bench]:
    """An open bench, closed at the end."""
    built = Bench(broker, server)
    await built.open()
    try:
        yield built
    finally:
        await built.close()
