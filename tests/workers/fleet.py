"""A fleet in memory for tests: one broker, one store, any number of workers, and a caller that publishes and is woken."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from protocol.codec import decode_reply, encode_request, micros, size_limit
from protocol.messages import InferReply, InferRequest, Lane
from protocol.naming import Names, ref
from protocol.ports import Cancel, OutRecord, Payload, Wake
from protocol.tensors import from_array
from protocol.transport import Transport
from protocol.transport.embedded.broker import MemoryBroker
from protocol.transport.embedded.memory import MemoryBus, MemoryServer, MemoryStore
from protocol.transport.settings import TransportSettings
from workers.settings import WorkerSettings
from workers.worker import Worker

NAMES = Names("test")
CHANNEL = NAMES.gateway_channel("gateway")
TIMEOUT = 20.0

IDENTITY = """
backend: "identity"
max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] } ]
"""
DELAYED = IDENTITY + "dynamic_batching { preferred_batch_size: [ 8 ] max_queue_delay_microseconds: 60000000 }"
ORDERED = IDENTITY + "dynamic_batching { preserve_ordering: true }"
BOUNDED = IDENTITY + "dynamic_batching { default_queue_policy { max_queue_size: 3 } }"
IMPATIENT = (
    IDENTITY
    + "dynamic_batching { default_queue_policy { default_timeout_microseconds: 20000 timeout_action: REJECT } }"
)


def write_model(repository: Path, name: str, config: str = IDENTITY, files: Mapping[str, str] | None = None) -> Path:
    """A model folder with version 1."""
    folder = repository / name / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (repository / name / "config.pbtxt").write_text(config)
    for path, text in (files or {}).items():
        (folder / path).write_text(text)
    return repository / name


def carried(request: InferRequest) -> OutRecord:
    """As a gateway publishes it to an immediate bus."""
    size = size_limit(request.inputs, request.label, request.parameters)
    return OutRecord(b"", (), None, request.published, request, size)


class Caller:
    """Publishes requests and collects their answers, as a gateway does; with `encodes`, as a gateway in another process."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.encodes = False
        self.answers: dict[str, InferReply] = {}
        self.counts: dict[str, int] = {}
        self._waiting: dict[str, asyncio.Future[InferReply]] = {}
        self._looking: set[asyncio.Future[None]] = set()
        self._ids = itertools.count()

    async def open(self) -> None:
        await self.transport.results.listen(CHANNEL, self._on_wake)

    def _on_wake(self, wakes: list[Wake]) -> None:
        for wake in wakes:
            if wake.payload is not None:
                self._deliver(wake.ref, wake.payload)
            elif wake.ref not in self.answers:
                self._looking.add(asyncio.ensure_future(self._look(wake.ref)))

    async def _look(self, name: str) -> None:
        (state,) = await self.transport.results.look([name])
        if state is not None and state.payload:
            self._deliver(name, state.payload)

    def _deliver(self, name: str, payload: Payload) -> None:
        reply = payload if isinstance(payload, InferReply) else decode_reply(payload)
        self.answers[name] = reply
        self.counts[name] = self.counts.get(name, 0) + 1
        waiter = self._waiting.pop(name, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(reply)

    def rows(self, count: int, **fields: object) -> InferRequest:
        """A request of rows 0, 1, 2, …"""
        array = np.arange(count, dtype=np.float32).reshape(count, 1)
        return dataclasses.replace(self.request(0.0, **fields), inputs=(from_array("X", array),))  # type: ignore[arg-type]

    def request(self, *values: float, model: str = "m", **fields: object) -> InferRequest:
        """A request of one row, accepted at a whole microsecond, as a gateway stamps it: cancellations compare stamps exactly."""
        array = np.array([values], np.float32)
        request = InferRequest(f"r{next(self._ids)}", model, "1", (from_array("X", array),), reply_to=CHANNEL)
        request = dataclasses.replace(request, **fields)  # type: ignore[arg-type]
        return dataclasses.replace(request, accepted=micros(request.accepted) / 1e6)

    async def publish(
        self, *requests: InferRequest, partition: int | None = None, lane: Lane = Lane.INTERACTIVE
    ) -> list[asyncio.Future[InferReply]]:
        """All of them as one group; a future for the answer of each."""
        futures = []
        for request in requests:
            future = asyncio.get_running_loop().create_future()
            self._waiting[ref(request.principal, request.id)] = future
            futures.append(future)
        if self.encodes:
            records = [OutRecord(*encode_request(request)) for request in requests]
        else:
            records = [carried(request) for request in requests]
        topic = NAMES.request_topic(requests[0].model, requests[0].version, lane)
        await self.transport.bus.publish(topic, records, partition)
        return futures

    async def ask(
        self, *requests: InferRequest, partition: int | None = None, lane: Lane = Lane.INTERACTIVE
    ) -> list[InferReply]:
        """Publish them and wait for all answers."""
        futures = await self.publish(*requests, partition=partition, lane=lane)
        async with asyncio.timeout(TIMEOUT):
            return list(await asyncio.gather(*futures))

    async def cancel(self, *requests: InferRequest, lane: Lane = Lane.INTERACTIVE) -> None:
        """Cancel these runs and any before them."""
        channel = NAMES.cancel_channel(NAMES.request_topic(requests[0].model, requests[0].version, lane))
        cancels = [Cancel(ref(request.principal, request.id), request.accepted) for request in requests]
        await self.transport.results.cancel(channel, cancels)


@dataclasses.dataclass
class Fleet:
    """Everything on one broker and one store."""

    repository: Path
    broker: MemoryBroker = dataclasses.field(default_factory=lambda: MemoryBroker(session_timeout=30.0))
    server: MemoryServer = dataclasses.field(default_factory=MemoryServer)
    workers: list[Worker] = dataclasses.field(default_factory=list)
    transports: list[Transport] = dataclasses.field(default_factory=list)

    async def transport(self) -> Transport:
        """A process's own transport to the broker and the store."""
        store = MemoryStore(TransportSettings(), self.server)
        transport = Transport(MemoryBus(self.broker), store, store)
        await transport.open()
        self.transports.append(transport)
        return transport

    async def caller(self) -> Caller:
        caller = Caller(await self.transport())
        await caller.open()
        return caller

    def settings(self, **fields: object) -> WorkerSettings:
        chosen: dict[str, object] = {
            "model_repository": (self.repository,),
            "worker": f"w{len(self.workers)}",
            "metrics_port": None,
            "unload_grace": 5.0,
        }
        return WorkerSettings(**chosen | fields)  # type: ignore[arg-type]

    async def worker(self, transport: Transport | None = None, **fields: object) -> Worker:
        """A started worker."""
        worker = Worker(self.settings(**fields), transport or await self.transport(), NAMES)
        self.workers.append(worker)
        await worker.start()
        return worker

    async def close(self) -> None:
        for worker in self.workers:
            await worker.close()
        for transport in self.transports:
            await transport.close()


@asynccontextmanager
async def fleet(repository: Path) -> AsyncIterator[Fleet]:
    """A fleet over a folder of models, closed at the end."""
    built = Fleet(repository)
    try:
        yield built
    finally:
        await built.close()


async def turn_of_the_loop() -> None:
    """Let everything run that is due now."""
    loop = asyncio.get_running_loop()
    passed = loop.create_future()
    loop.call_soon(passed.set_result, None)
    await passed


async def until(condition: object, what: str = "it") -> None:
    """Let the event loop run until the condition holds; fails after `TIMEOUT` seconds."""
    assert callable(condition)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + TIMEOUT
    while not condition():
        assert loop.time() < deadline, f"{what} did not happen"
        await asyncio.to_thread(os.sched_yield)


def values(replies: Sequence[InferReply]) -> list[list[float]]:
    """The first output of each."""
    return [reply.outputs[0].array().ravel().tolist() for reply in replies]
