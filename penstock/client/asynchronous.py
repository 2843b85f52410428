"""`AsyncClient`: for asyncio, and for many calls at once."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from types import TracebackType
from typing import Any, Protocol, Self, Unpack

from penstock.client import requests
from penstock.client.async_connections import AsyncConnections
from penstock.client.blocking import MAX_ANSWER, READY, RETRIES, SHORT
from penstock.client.environment import Route
from penstock.client.exchange import Answered
from penstock.client.requests import InferOptions, InferResult, Options, Pending, Request
from penstock.client.retrying import Attempts
from penstock.client.windows import Outcome, Progress, outcomes
from penstock.client.wires import SLACK, HttpWire, Inputs, Tls, Wire, is_rpc
from protocol.errors import FleetError, InvalidArgument

POLL = 30.0
"""Seconds of one long poll for a result."""


class AwaitedConnections(Protocol):
    """Makes calls of one protocol on the running event loop."""

    async def send(self, request: Request, until: float | None) -> Answered:
        """The answer to a request, if it is not an error; see `BlockingConnections.send`."""

    async def close(self) -> None:
        """Close them."""


class AsyncClient:
    """The client for asyncio: the methods of `Client` as coroutines, `infer_many` and `results`.

    It belongs to the event loop that uses it first; after that loop was closed, to the next one.

    Args:
        url, api_key, retries, max_answer_bytes, tls: as for `Client`.
        connections: how many requests may be in flight at once; more wait.
    """

    def __init__(
        self,
        url: str = "http://localhost:8000",
        *,
        api_key: str = "",
        connections: int = 100,
        retries: int = RETRIES,
        max_answer_bytes: int = MAX_ANSWER,
        tls: Tls | None = None,
    ) -> None:
        if connections < 1:
            raise InvalidArgument(f"connections must be at least 1, not {connections}")
        self._retries = retries
        self._width = connections
        self._wire, self._connections = _connect(url, api_key, tls, max_answer_bytes, connections)

    async def infer(self, model: str, inputs: Inputs, **options: Unpack[Options]) -> InferResult:
        """See `Client.infer`."""
        asked = InferOptions(**options)
        answered = await self._send(self._wire.infer(model, inputs, asked), asked.timeout, self._wire.slack)
        return self._wire.result(answered)

    async def submit(self, model: str, inputs: Inputs, **options: Unpack[Options]) -> Pending:
        """See `Client.submit`."""
        asked = InferOptions(**requests.keyed(options))
        answered = await self._send(self._wire.infer(model, inputs, asked, wait=False), SHORT)
        return self._wire.pending(answered)

    async def result(self, pending: Pending, wait: float = 30.0) -> InferResult | None:
        """See `Client.result`."""
        if pending.answered is not None:
            return pending.answered
        answered = await self._send(self._wire.fetch(pending, wait), wait + SLACK)
        return None if answered.status == 202 else self._wire.result(answered)

    async def cancel(self, pending: Pending) -> None:
        """See `Client.cancel`."""
        await self._send(self._wire.cancel(pending), SHORT)

    async def get(self, path: str) -> Any:
        """See `Client.get`."""
        asked = self._wire.get(path)
        return self._wire.document(asked, await self._send(asked, SHORT))

    async def models(self) -> list[dict[str, Any]]:
        """See `Client.models`."""
        asked = self._wire.index()
        index: list[dict[str, Any]] = self._wire.document(asked, await self._send(asked, SHORT))
        return index

    async def ready(self) -> bool:
        """See `Client.ready`."""
        try:
            return self._wire.is_ready(await self._connections.send(self._wire.ready(), time.monotonic() + READY))
        except FleetError:
            return False

    def infer_many(
        self,
        model: str,
        inputs: Iterable[Inputs] | AsyncIterable[Inputs],
        *,
        concurrency: int = 64,
        ordered: bool = True,
        key: Callable[[int], str] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        **options: Unpack[Options],
    ) -> AsyncGenerator[Outcome[Inputs], None]:
        """Run the model on every one of `inputs`, of any number, in bounded memory.

        Args:
            model: its name.
            inputs: are read as calls end; may be endless.
            concurrency: calls at once, at most the client's `connections`.
            ordered: whether outcomes come in the order of the inputs; else as they come.
            key: the idempotency key of the input with this number, from 0.
            on_progress: called on the event loop as calls end.
            **options: of `infer`, for every call.

        Yields:
            An `Outcome` for every input: a result, or the error of this call alone.
        """

        async def call(index: int, item: Inputs) -> InferResult:
            mine: Options = options if key is None else {**options, "idempotency_key": key(index)}
            return await self.infer(model, item, **mine)

        width = min(concurrency, self._width)
        return outcomes(inputs, call, concurrency=width, ordered=ordered, on_progress=on_progress)

    def results(
        self,
        pendings: Iterable[Pending] | AsyncIterable[Pending],
        *,
        concurrency: int = 64,
        ordered: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> AsyncGenerator[Outcome[Pending], None]:
        """The answers of submitted requests, waiting for each as long as it takes.

        Yields:
            An `Outcome` for every one, whose `item` is the handle; as they come, unless `ordered`.
        """

        async def call(_: int, pending: Pending) -> InferResult:
            while (found := await self.result(pending, POLL)) is None:
                pass
            return found

        width = min(concurrency, self._width)
        return outcomes(pendings, call, concurrency=width, ordered=ordered, on_progress=on_progress)

    async def _send(self, request: Request, timeout: float | None, slack: float = 0.0) -> Answered:
        """See `Client._send`."""
        begun = time.monotonic()
        until = None if timeout is None else begun + timeout
        end = None if until is None else until + slack
        try:
            return await self._connections.send(request, end)
        except FleetError as error:
            from penstock.client import repeating

            attempts = Attempts(self._retries, request.repeatable, until)
            if not repeating.worth_repeating(attempts, error):
                raise

            async def again() -> Answered:
                left = request if until is None else request.within(until - time.monotonic())
                return await self._connections.send(left, end)

            return await repeating.repeat_async(attempts, error, again)

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _connect(url: str, api_key: str, tls: Tls | None, most: int, count: int) -> tuple[Wire, AwaitedConnections]:
    """The protocol of a URL, and connections that speak it; see `blocking._connect`."""
    if is_rpc(url):
        from penstock.client.rpc_channels import AsyncChannel, RpcRoute
        from penstock.client.rpc_wire import RpcWire

        called = RpcRoute(url, api_key, tls, most)
        return RpcWire(called.url), AsyncChannel(called, count)
    route = Route(url, api_key, tls)
    return HttpWire(route.url), AsyncConnections(route, most, count)
