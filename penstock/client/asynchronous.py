"""`AsyncClient`: for asyncio, and for many calls at once."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, Unpack

import numpy.typing as npt

from penstock.client import requests
from penstock.client.async_connections import AsyncConnections
from penstock.client.blocking import MAX_ANSWER, READY, RETRIES, SHORT, SLACK
from penstock.client.environment import Route
from penstock.client.exchange import Answered
from penstock.client.requests import InferOptions, InferResult, Options, Pending, Request
from penstock.client.retrying import Attempts
from penstock.client.windows import Outcome, Progress, outcomes
from protocol.errors import FleetError, InvalidArgument
from protocol.tensors import Tensor

Inputs = Mapping[str, npt.ArrayLike | Tensor]
POLL = 30.0
"""Seconds of one long poll for a result."""


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
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if connections < 1:
            raise InvalidArgument(f"connections must be at least 1, not {connections}")
        self._route = Route(url, api_key, tls)
        self._retries = retries
        self._width = connections
        self._connections = AsyncConnections(self._route, max_answer_bytes, connections)

    async def infer(self, model: str, inputs: Inputs, **options: Unpack[Options]) -> InferResult:
        """See `Client.infer`."""
        asked = InferOptions(**options)
        answered = await self._send(requests.infer(model, inputs, asked), asked.timeout, SLACK)
        return requests.result(answered.headers, answered.body)

    async def submit(self, model: str, inputs: Inputs, **options: Unpack[Options]) -> Pending:
        """See `Client.submit`."""
        asked = InferOptions(**requests.keyed(options))
        answered = await self._send(requests.infer(model, inputs, asked, wait=False), SHORT)
        return requests.pending(answered.headers, answered.body)

    async def result(self, pending: Pending, wait: float = 30.0) -> InferResult | None:
        """See `Client.result`."""
        if pending.answered is not None:
            return pending.answered
        answered = await self._send(requests.fetch(pending, wait), wait + SLACK)
        return None if answered.status == 202 else requests.result(answered.headers, answered.body)

    async def cancel(self, pending: Pending) -> None:
        """See `Client.cancel`."""
        await self._send(requests.cancel(pending), SHORT)

    async def get(self, path: str) -> Any:
        """See `Client.get`."""
        return requests.document(self._route.url + path, (await self._send(requests.get(path), SHORT)).body)

    async def models(self) -> list[dict[str, Any]]:
        """See `Client.models`."""
        body = (await self._send(requests.INDEX, SHORT)).body
        index: list[dict[str, Any]] = requests.document(self._route.url + requests.INDEX.path, body)
        return index

    async def ready(self) -> bool:
        """See `Client.ready`."""
        try:
            await self._attempt(requests.READY, time.monotonic() + READY)
        except FleetError:
            return False
        return True

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
            return await self._attempt(request, end)
        except FleetError as error:
            from penstock.client import repeating

            attempts = Attempts(self._retries, request.repeatable, until)
            if not repeating.worth_repeating(attempts, error):
                raise

            async def again() -> Answered:
                return await self._attempt(request if until is None else request.within(until - time.monotonic()), end)

            return await repeating.repeat_async(attempts, error, again)

    async def _attempt(self, request: Request, end: float | None) -> Answered:
        head = self._route.heads.request(request.method, request.path, request.headers, len(request.body))
        answered = await self._connections.call(head + request.body, end)
        requests.check(answered.status, answered.headers, answered.body)
        return answered

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
