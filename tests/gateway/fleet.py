"""A gateway in this process, with a tiny worker built on the ports alone: no mocks, real sockets, the memory transport."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

import httpx
import numpy as np
import orjson
from prometheus_client import CollectorRegistry, generate_latest

from gateway.app import Gateway
from gateway.settings import GatewaySettings
from protocol.codec import decode_request, encode_reply
from protocol.errors import RETRYABLE, Code
from protocol.heartbeat_codec import encode_announcement
from protocol.messages import (
    Announcement,
    Failure,
    Heartbeat,
    InferReply,
    InferRequest,
    ModelLoad,
    ModelState,
    Parameters,
    Timing,
)
from protocol.naming import Names, ref
from protocol.ports import Assigned, Cancel, OutRecord, Record, Terminal
from protocol.runtime.clock import Clock
from protocol.tensors import Tensor, from_array
from protocol.transport import Transport
from protocol.transport.embedded.broker import MemoryBroker
from protocol.transport.embedded.memory import MemoryBus, MemoryServer, MemoryStore
from protocol.transport.settings import TransportSettings

NAMES = Names()
ADD_SUB: dict[str, Any] = {
    "name": "add_sub",
    "backend": "identity",
    "max_batch_size": 8,
    "input": [
        {"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [16]},
        {"name": "INPUT1", "data_type": "TYPE_FP32", "dims": [16]},
    ],
    "output": [
        {"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [16]},
        {"name": "OUTPUT1", "data_type": "TYPE_FP32", "dims": [16]},
    ],
}
ANY: dict[str, Any] = {
    "name": "any",
    "backend": "identity",
    "max_batch_size": 0,
    "input": [{"name": "IN", "data_type": "TYPE_FP32", "dims": [-1]}],
    "output": [{"name": "OUT", "data_type": "TYPE_FP32", "dims": [-1]}],
}
TEXT: dict[str, Any] = {
    "name": "text",
    "backend": "identity",
    "max_batch_size": 0,
    "input": [{"name": "IN", "data_type": "TYPE_STRING", "dims": [-1]}],
    "output": [{"name": "OUT", "data_type": "TYPE_STRING", "dims": [-1]}],
}
HALF: dict[str, Any] = {
    "name": "half",
    "backend": "identity",
    "max_batch_size": 0,
    "input": [{"name": "IN", "data_type": "TYPE_FP16", "dims": [2]}],
    "output": [{"name": "OUT", "data_type": "TYPE_FP16", "dims": [2]}],
}


def request_of(record: Record, model: str = "m", version: str = "1") -> InferRequest:
    """The message of a record, whether the bus carries it or its bytes."""
    if record.request is not None:
        return record.request
    return decode_request(
        record.value, record.headers, model=model, version=version, default_id="?", timestamp=record.timestamp
    )


class Worker:
    """Fetches, answers, commits. Model `add_sub` adds and subtracts; any other returns its input.

    Attributes:
        open: while cleared, it answers nothing.
        ran: ids of the requests it ran, in order.
        parameters: of these requests.
        cancelled: refs it was told to cancel, and up to when accepted runs are covered; those do not run.
        fail: the error that every request gets instead of its outputs.
    """

    def __init__(self, transport: Transport, config: dict[str, Any], version: str = "1", name: str = "w1") -> None:
        self.config = config
        self.model: str = config["name"]
        self.version = version
        self.name = name
        self.topic = NAMES.infer_topic(self.model, version)
        self.open = asyncio.Event()
        self.open.set()
        self.ran: list[str] = []
        self.parameters: list[Parameters] = []
        self.requests: list[InferRequest] = []
        self.cancelled: dict[str, float] = {}
        self.fail: Failure | None = None
        self._transport = transport
        self._clock = Clock()
        self._task: asyncio.Task[None] | None = None

    async def announce(self, state: ModelState = ModelState.READY, reason: str = "") -> None:
        bus = self._transport.bus
        await bus.ensure_topic(NAMES.catalogue_topic, 1, compacted=True)
        await bus.ensure_topic(self.topic, 4)
        entry = Announcement(self.model, self.version, state, self.config, "digest", reason, self._clock(), 4)
        key, value = encode_announcement(entry)
        await bus.publish(NAMES.catalogue_topic, [OutRecord(value, (), key)])

    async def beat(self, statistics: dict[str, Any] | None = None, *, draining: bool = False) -> None:
        load = ModelLoad(self.model, self.version, ModelState.READY, statistics=statistics or {})
        beat = Heartbeat(self.name, "1", "host", 1, self._clock(), (load,), draining=draining)
        await self._transport.directory.beat(beat)

    async def start(self) -> None:
        await self.announce()
        await self.beat()
        await self._transport.results.listen_cancels(NAMES.cancel_channel(self.topic), self._on_cancel)
        self._consumer = await self._transport.bus.subscribe(self.topic, self.topic, self.name, self)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            await self._consumer.close()

    def _on_cancel(self, cancels: list[Cancel]) -> None:
        self.cancelled.update({cancel.ref: cancel.until for cancel in cancels})

    def assigned(self, epoch: int, partitions: Sequence[Assigned]) -> None:
        pass

    def arrived(self, take: object) -> None: ...

    def revoked(self, partitions: Collection[int]) -> None:
        pass

    async def _run(self) -> None:
        while True:
            records = await self._consumer.fetch(64, 1.0)
            fetched = self._clock()
            await self.open.wait()
            answers = [self._answer(record, fetched, len(records)) for record in records]
            await self._transport.results.finish([answer for answer in answers if answer is not None])
            offsets: dict[int, int] = {}
            for record in records:
                offsets[record.partition] = record.offset + 1
            await self._consumer.commit(offsets)

    def _answer(self, record: Record, fetched: float, rows: int) -> Terminal | None:
        request = request_of(record, self.model, self.version)
        request_ref = ref(request.principal, request.id)
        now = self._clock()
        timing = Timing(
            request.accepted,
            request.published,
            fetched,
            fetched,
            fetched,
            now,
            now,
            now,
            "full",
            rows,
            rows,
            1,
            self.name,
        )
        reply = InferReply(self.model, self.version, request.label, timing=timing)
        if request.accepted <= self.cancelled.get(request_ref, 0.0):
            reply.failure = Failure(Code.CANCELLED, "cancelled")
        elif self.fail is not None:
            reply.failure = self.fail
        else:
            self.ran.append(request.id)
            self.parameters.append(request.parameters)
            self.requests.append(request)
            reply.outputs = tuple(t for t in self._outputs(request) if not request.outputs or t.name in request.outputs)
        failure = reply.failure
        retriable = failure is not None and failure.code in RETRYABLE
        return Terminal(request_ref, encode_reply(reply), request.reply_to, 300.0, retriable, request.accepted)

    def _outputs(self, request: InferRequest) -> tuple[Tensor, ...]:
        if self.model == "add_sub":
            a, b = (tensor.array() for tensor in request.inputs)
            return from_array("OUTPUT0", a + b), from_array("OUTPUT1", a - b)
        (tensor,) = request.inputs
        return (Tensor("OUT", tensor.datatype, tensor.shape, tensor.data),)


@dataclasses.dataclass
class Site:
    """One fleet: a broker, a store, and the processes started on them."""

    broker: MemoryBroker
    server: MemoryServer
    stack: contextlib.AsyncExitStack

    async def transport(self) -> Transport:
        store = MemoryStore(TransportSettings(), self.server)
        transport = Transport(MemoryBus(self.broker), store, store)
        await transport.open()
        self.stack.push_async_callback(transport.close)
        return transport

    async def worker(self, config: dict[str, Any] = ADD_SUB, version: str = "1", name: str = "w1") -> Worker:
        worker = Worker(await self.transport(), config, version, name)
        await worker.start()
        self.stack.push_async_callback(worker.stop)
        return worker

    async def gateway(self, transport: Transport | None = None, **settings: Any) -> Running:
        defaults: dict[str, Any] = {"http_port": 0, "metrics_port": None, "drain_grace": 5.0, "model_wait": 0.0}
        registry = CollectorRegistry()
        gateway = Gateway(
            GatewaySettings(**{**defaults, **settings}), transport or await self.transport(), NAMES, registry=registry
        )
        running = Running(gateway, registry)
        await gateway.start()
        self.stack.push_async_callback(running.stop)
        return running


class Running:
    """A gateway that serves, and a client for it."""

    def __init__(self, gateway: Gateway, registry: CollectorRegistry) -> None:
        self.gateway = gateway
        self.registry = registry
        self.client = httpx.AsyncClient(timeout=20.0, trust_env=False)
        self._stopped = False
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.port}"

    async def stop(self) -> None:
        await self.client.aclose()
        for writer in self._writers:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        if not self._stopped:
            self._stopped = True
            await self.gateway.drain()
            await self.gateway.close()

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.client.get(self.url + path, **options)

    async def post(self, path: str, **options: Any) -> httpx.Response:
        return await self.client.post(self.url + path, **options)

    async def delete(self, path: str, **options: Any) -> httpx.Response:
        return await self.client.delete(self.url + path, **options)

    async def infer(
        self, body: dict[str, Any] | bytes | None = None, model: str = "add_sub", **headers: str
    ) -> httpx.Response:
        content = body if isinstance(body, bytes) else orjson.dumps(body if body is not None else add_sub())
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.post(f"/v2/models/{model}/infer", content=content, headers=named)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        self._writers.append(writer)
        return reader, writer

    def metric(self, line: str) -> float:
        """The value of one sample, by its name and labels as printed; 0 if it is missing."""
        for row in generate_latest(self.registry).decode().splitlines():
            name, _, value = row.rpartition(" ")
            if name == line:
                return float(value)
        return 0.0


@contextlib.asynccontextmanager
async def site() -> AsyncIterator[Site]:
    async with contextlib.AsyncExitStack() as stack:
        yield Site(MemoryBroker(), MemoryServer(), stack)


def add_sub(a: float = 1.0, b: float = 2.0, rows: int = 1, **more: Any) -> dict[str, Any]:
    """A request body for `add_sub`."""
    inputs = [
        {"name": name, "datatype": "FP32", "shape": [rows, 16], "data": [value + i for i in range(16 * rows)]}
        for name, value in (("INPUT0", a), ("INPUT1", b))
    ]
    return {"inputs": inputs, **more}


def floats(count: int, **more: Any) -> dict[str, Any]:
    """A request body for `any`."""
    data = np.arange(count, dtype=np.float32).tolist()
    return {"inputs": [{"name": "IN", "datatype": "FP32", "shape": [count], "data": data}], **more}


def raw_request(body: bytes, *lines: str, path: str = "/v2/models/add_sub/infer", method: str = "POST") -> bytes:
    """One HTTP/1.1 request as bytes."""
    head = [f"{method} {path} HTTP/1.1", "host: localhost", *lines]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in lines):
        head.append(f"content-length: {len(body)}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


@dataclasses.dataclass
class Answered:
    """One response as received over a socket."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


async def read_response(reader: asyncio.StreamReader) -> Answered:
    """The next response of a connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ")[1])
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answered(status, headers, body)


async def until(condition: Any, seconds: float = 10.0) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)
