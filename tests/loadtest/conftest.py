"""A tiny V2 server over real sockets, in the test's own event loop or on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import orjson
import pytest

from loadtest.connections import Address
from loadtest.models import MODELS
from loadtest.payloads import Pool, build

Body = dict[str, Any]
Reply = tuple[int, bytes]
Handler = Callable[[Body], Awaitable[Reply]]


def add_and_subtract(inputs: Any) -> dict[str, Any]:
    """The addsub model's computation."""
    a, b = inputs["INPUT0"], inputs["INPUT1"]
    return {"OUTPUT0": a + b, "OUTPUT1": a - b}


async def right(body: Body) -> Reply:
    """Answer as the addsub model does."""
    arrays = {item["name"]: np.array(item["data"], np.float32) for item in body["inputs"]}
    outputs = [
        {"name": name, "datatype": "FP32", "shape": [1, 16], "data": array.tolist()}
        for name, array in add_and_subtract(arrays).items()
    ]
    return 200, orjson.dumps({"model_name": "addsub", "model_version": "1", "outputs": outputs})


METADATA = {
    "name": "addsub",
    "versions": ["1"],
    "platform": "onnxruntime_onnx",
    "inputs": [{"name": name, "datatype": "FP32", "shape": [-1, 16]} for name in ("INPUT0", "INPUT1")],
    "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, 16]} for name in ("OUTPUT0", "OUTPUT1")],
}


class V2Server:
    """Answers POST with its handler, GET with addsub's metadata; counts connections and requests."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.connections = 0
        self.requests = 0
        self.bodies: set[bytes] = set()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def document(self, path: bytes) -> dict[str, Any]:
        """Metadata, or statistics as if pairs were executed together."""
        if not path.endswith(b"/stats"):
            return METADATA
        counts = {"inference_count": self.requests, "execution_count": self.requests // 2}
        return {"model_stats": [{"name": "addsub", "version": "1", **counts}]}

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port, "addsub")

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET "):
            status, answer = 200, orjson.dumps(self.document(head.split(b" ")[1]))
        else:
            length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            body = await reader.readexactly(length)
            self.requests += 1
            self.bodies.add(body)
            status, answer = await self.handler(orjson.loads(body))
        if status == 0:  # hang up
            return False
        if status == -1:  # not HTTP at all
            writer.write(answer)
            return True
        close = b"Connection: close\r\n" if status == 299 else b""
        line = b"HTTP/1.1 %d X\r\n%bContent-Length: %d\r\n\r\n" % (200 if status == 299 else status, close, len(answer))
        writer.write(line + answer)
        return status != 299


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[V2Server]]]:
    """Starts servers in this test's event loop."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(handler: Handler) -> V2Server:
            server = V2Server(handler)
            await server.start()
            stack.push_async_callback(server.stop)
            return server

        yield start


@pytest.fixture
def threaded_server() -> Iterator[V2Server]:
    """A server that answers as addsub does, on its own thread."""
    loop = asyncio.new_event_loop()
    server = V2Server(right)
    loop.run_until_complete(server.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield server
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(scope="session")
def pool() -> Pool:
    """64 different addsub requests with their answers."""
    return build(MODELS["addsub"].inputs, 64, reference=add_and_subtract)
