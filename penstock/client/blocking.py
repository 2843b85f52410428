"""`Client`: for scripts and threads."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self, Unpack

import numpy.typing as npt

from penstock.client import requests
from penstock.client.blocking_connections import BlockingConnections
from penstock.client.environment import Route
from penstock.client.exchange import Answered
from penstock.client.requests import InferOptions, InferResult, Options, Pending, Request
from penstock.client.retrying import Attempts
from protocol.errors import FleetError
from protocol.tensors import Tensor

SLACK: Final = 5.0
"""Seconds for which a call outlives the requested timeout, so that the gateway's own answer arrives."""
SHORT: Final = 30.0
"""Seconds for calls that run no model."""
READY: Final = 5.0
RETRIES: Final = 2
MAX_ANSWER: Final = 256 * 1024 * 1024


class Client:
    """A blocking client of one gateway (or of a load balancer in front of several). Threads may share it.

    Args:
        url: for example `http://localhost:8000`, or `localhost:8000`. The environment's `http_proxy`, `https_proxy` and `no_proxy`
            count, except for a server on this machine.
        api_key: the gateway's, if it has one.
        retries: how often a call is made again that failed before it ran (no connection, 429, 503), or that may run twice (it is
            keyed, or only reads); 0 for never. `Retry-After` is waited for; no attempt begins after the call's timeout.
        max_answer_bytes: of one answer.
        tls: for `https`; by default the system's certificates are trusted.

    Every method raises `protocol.errors.FleetError` with the gateway's text, `Unavailable` when it cannot be reached, and
    `DeadlineExceeded` when it did not answer in time.
    """

    def __init__(
        self,
        url: str = "http://localhost:8000",
        *,
        api_key: str = "",
        retries: int = RETRIES,
        max_answer_bytes: int = MAX_ANSWER,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._route = Route(url, api_key, tls)
        self._retries = retries
        self._connections = BlockingConnections(self._route, max_answer_bytes)

    def infer(
        self, model: str, inputs: Mapping[str, npt.ArrayLike | Tensor], **options: Unpack[Options]
    ) -> InferResult:
        """Run the model and wait for its answer.

        Args:
            model: its name.
            inputs: arrays by name, with a leading batch dimension where the model batches; a `Tensor` where the array's dtype
                does not say the datatype (BF16).
            **options: `version`, `outputs` (names; default all), `parameters`, `label`, `timeout` (seconds; then a
                DEADLINE_EXCEEDED error), `idempotency_key` (repeat the call with the same key as often as you like: it
                runs once) and `lane` ("batch" for work that nobody waits for; it may have more rows than `max_batch_size`).
        """
        asked = InferOptions(**options)
        answered = self._send(requests.infer(model, inputs, asked), asked.timeout, SLACK)
        return requests.result(answered.headers, answered.body)

    def submit(self, model: str, inputs: Mapping[str, npt.ArrayLike | Tensor], **options: Unpack[Options]) -> Pending:
        """Submit a request without waiting for its answer; returns once it is durable. Takes the options of `infer`.

        Without an `idempotency_key` it gets a fresh one, so that it can be repeated when a connection breaks.
        """
        asked = InferOptions(**requests.keyed(options))
        answered = self._send(requests.infer(model, inputs, asked, wait=False), SHORT)
        return requests.pending(answered.headers, answered.body)

    def result(self, pending: Pending, wait: float = 30.0) -> InferResult | None:
        """The answer of a submitted request, waiting up to `wait` seconds for it; None if it is not ready."""
        if pending.answered is not None:
            return pending.answered
        answered = self._send(requests.fetch(pending, wait), wait + SLACK)
        return None if answered.status == 202 else requests.result(answered.headers, answered.body)

    def cancel(self, pending: Pending) -> None:
        """Cancel a submitted request; if it is already running, it continues and its answer is dropped."""
        self._send(requests.cancel(pending), SHORT)

    def get(self, path: str) -> Any:
        """GET any JSON of the API, for example `/v2/models/digits/config`."""
        return requests.document(self._route.url + path, self._send(requests.get(path), SHORT).body)

    def models(self) -> list[dict[str, Any]]:
        """The repository index: name, version, state and reason of every model version."""
        body = self._send(requests.INDEX, SHORT).body
        index: list[dict[str, Any]] = requests.document(self._route.url + requests.INDEX.path, body)
        return index

    def ready(self) -> bool:
        """Whether the gateway accepts requests now."""
        try:
            self._attempt(requests.READY, time.monotonic() + READY)
        except FleetError:
            return False
        return True

    def _send(self, request: Request, timeout: float | None, slack: float = 0.0) -> Answered:
        """Make a call, and again as often as `retrying` allows.

        Args:
            request: the call.
            timeout: seconds in which attempts may begin; None for any time.
            slack: seconds that an attempt may take longer.
        """
        begun = time.monotonic()
        until = None if timeout is None else begun + timeout
        end = None if until is None else until + slack
        try:
            return self._attempt(request, end)
        except FleetError as error:
            from penstock.client import repeating

            attempts = Attempts(self._retries, request.repeatable, until)
            if not repeating.worth_repeating(attempts, error):
                raise

            def again() -> Answered:
                return self._attempt(request if until is None else request.within(until - time.monotonic()), end)

            return repeating.repeat(attempts, error, again)

    def _attempt(self, request: Request, end: float | None) -> Answered:
        head = self._route.heads.request(request.method, request.path, request.headers, len(request.body))
        answered = self._connections.call(head + request.body, end)
        requests.check(answered.status, answered.headers, answered.body)
        return answered

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
