"""`Client`: for scripts and threads."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Protocol, Self, Unpack

import numpy.typing as npt

from penstock.client import requests
from penstock.client.blocking_connections import BlockingConnections
from penstock.client.environment import Route
from penstock.client.exchange import Answered
from penstock.client.requests import InferOptions, InferResult, Options, Pending, Request
from penstock.client.retrying import Attempts
from penstock.client.wires import SLACK, HttpWire, Tls, Wire, is_rpc
from protocol.errors import FleetError, Unsupported
from protocol.tensors import Tensor

SHORT: Final = 30.0
"""Seconds for calls that run no model."""
READY: Final = 5.0
RETRIES: Final = 2
MAX_ANSWER: Final = 256 * 1024 * 1024


class Connections(Protocol):
    """Makes calls of one protocol, from any thread."""

    def send(self, request: Request, until: float | None) -> Answered:
        """The answer to a request, if it is not an error; see `BlockingConnections.send`."""

    def close(self) -> None:
        """Close them."""


class Client:
    """A blocking client of one gateway (or of a load balancer in front of several). Threads may share it.

    Args:
        url: for example `http://localhost:8000`, or `localhost:8000`; or `grpc://localhost:8001`, or with TLS `https://…` and
            `grpcs://…`. The environment's `http_proxy`, `https_proxy` and `no_proxy` count, except for a server on this machine.
        api_key: the gateway's, if it has one.
        retries: how often a call is made again that failed before it ran (no connection, 429, 503), or that may run twice (it is
            keyed, or only reads); 0 for never. `Retry-After` is waited for; no attempt begins after the call's timeout.
        max_answer_bytes: of one answer.
        tls: for `https` and `grpcs`; by default the system's certificates are trusted. gRPC takes a context's trusted certificates
            alone; for a certificate of the client give it `grpc.ssl_channel_credentials(...)`.

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
        tls: Tls | None = None,
    ) -> None:
        self._retries = retries
        self._wire, self._connections = _connect(url, api_key, tls, max_answer_bytes)

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
        answered = self._send(self._wire.infer(model, inputs, asked), asked.timeout, self._wire.slack)
        return self._wire.result(answered)

    def submit(self, model: str, inputs: Mapping[str, npt.ArrayLike | Tensor], **options: Unpack[Options]) -> Pending:
        """Submit a request without waiting for its answer; returns once it is durable. Takes the options of `infer`.

        Without an `idempotency_key` it gets a fresh one, so that it can be repeated when a connection breaks.
        """
        asked = InferOptions(**requests.keyed(options))
        answered = self._send(self._wire.infer(model, inputs, asked, wait=False), SHORT)
        return self._wire.pending(answered)

    def result(self, pending: Pending, wait: float = 30.0) -> InferResult | None:
        """The answer of a submitted request, waiting up to `wait` seconds for it; None if it is not ready."""
        if pending.answered is not None:
            return pending.answered
        answered = self._send(self._wire.fetch(pending, wait), wait + SLACK)
        return None if answered.status == 202 else self._wire.result(answered)

    def cancel(self, pending: Pending) -> None:
        """Cancel a submitted request; if it is already running, it continues and its answer is dropped."""
        self._send(self._wire.cancel(pending), SHORT)

    def get(self, path: str) -> Any:
        """GET any JSON of the API, for example `/v2/models/digits/config`; over gRPC what RPCs answer, as the same JSON."""
        asked = self._wire.get(path)
        return self._wire.document(asked, self._send(asked, SHORT))

    def send(self, method: str, path: str, document: Any = None) -> Any:
        """Send a JSON document to any path of the API, such as `PUT` a route to an alias; returns its JSON answer. HTTP only."""
        asked = self._wire.change(method, path, document)
        return self._wire.document(asked, self._send(asked, SHORT))

    def models(self) -> list[dict[str, Any]]:
        """The repository index: name, version, state and reason of every model version."""
        asked = self._wire.index()
        index: list[dict[str, Any]] = self._wire.document(asked, self._send(asked, SHORT))
        return index

    def load(self, model: str, parameters: Mapping[str, Any] | None = None, timeout: float | None = None) -> None:
        """Load a model on the fleet; returns when every worker that should serve it does.

        Args:
            parameters: Triton's `config` and `file:<path>` (base64), and Penstock's `replicas`, `pinned`, `lease_s`,
                `idle_after_s` and `digests`.
            timeout: seconds to wait; None for as long as the gateway does.
        """
        self._change(requests.load(model, parameters or {}), timeout)

    def unload(self, model: str) -> None:
        """Unload a model everywhere; it stays unloaded, also after restarts, until it is loaded again."""
        self._change(requests.unload(model), SHORT)

    def _change(self, request: Request, timeout: float | None) -> None:
        if not isinstance(self._wire, HttpWire):
            raise Unsupported("models are loaded and unloaded over HTTP: give an http:// URL")
        self._send(request, timeout)

    def ready(self) -> bool:
        """Whether the gateway accepts requests now."""
        try:
            return self._wire.is_ready(self._connections.send(self._wire.ready(), time.monotonic() + READY))
        except FleetError:
            return False

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
            return self._connections.send(request, end)
        except FleetError as error:
            from penstock.client import repeating

            attempts = Attempts(self._retries, request.repeatable, until)
            if not repeating.worth_repeating(attempts, error):
                raise

            def again() -> Answered:
                return self._connections.send(
                    request if until is None else request.within(until - time.monotonic()), end
                )

            return repeating.repeat(attempts, error, again)

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _connect(url: str, api_key: str, tls: Tls | None, most: int) -> tuple[Wire, Connections]:
    """The protocol of a URL, and connections that speak it.

    Raises:
        InvalidArgument: the URL, the key or the environment's proxy is invalid.
        ConfigError: it is gRPC, and grpcio is not installed.
    """
    if is_rpc(url):
        from penstock.client.rpc_channels import BlockingChannel, RpcRoute
        from penstock.client.rpc_wire import RpcWire

        called = RpcRoute(url, api_key, tls, most)
        return RpcWire(called.url), BlockingChannel(called)
    route = Route(url, api_key, tls)
    return HttpWire(route.url), BlockingConnections(route, most)
