"""The protocols that a client speaks: what differs between HTTP and gRPC, behind two interfaces.

A `Wire` says what a call is and what its answer means, without I/O; connections send it. `Client` and `AsyncClient` know no more.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Protocol

import numpy.typing as npt

from penstock.client import requests
from penstock.client.exchange import Answered
from penstock.client.requests import InferOptions, InferResult, Pending, Request
from protocol.tensors import Tensor

Inputs = Mapping[str, npt.ArrayLike | Tensor]
Tls = ssl.SSLContext | Any
"""Trusted certificates: a context, or for gRPC also `grpc.ssl_channel_credentials(...)`, whose types need grpcio."""
SLACK = 5.0
"""Seconds for which a call over HTTP outlives the requested timeout, so that the gateway's own answer arrives."""


class Wire(Protocol):
    """Calls of one protocol, without I/O.

    Attributes:
        slack: seconds that a call may take longer than its timeout.
    """

    slack: float

    def infer(self, model: str, inputs: Inputs, options: InferOptions, *, wait: bool = True) -> Request:
        """One inference; see `requests.infer`."""

    def fetch(self, pending: Pending, wait: float) -> Request:
        """Asks for a submitted request's answer."""

    def cancel(self, pending: Pending) -> Request:
        """Cancels a submitted request."""

    def get(self, path: str) -> Request:
        """Asks for a JSON document by its HTTP path."""

    def change(self, method: str, path: str, document: Any) -> Request:
        """Sends a JSON document to an HTTP path. Raises `Unsupported`."""

    def index(self) -> Request:
        """Asks for the repository index."""

    def ready(self) -> Request:
        """Asks whether the gateway accepts requests."""

    def result(self, answered: Answered) -> InferResult:
        """The answer of an inference. Raises `CodecError`."""

    def pending(self, answered: Answered) -> Pending:
        """The handle of a submitted request. Raises `CodecError`."""

    def document(self, request: Request, answered: Answered) -> Any:
        """The JSON document of an answer. Raises `InvalidArgument`."""

    def is_ready(self, answered: Answered) -> bool:
        """What the answer to `ready` says."""


class HttpWire:
    """The V2 protocol over HTTP.

    Args:
        url: of the gateway, for errors.
    """

    slack = SLACK
    infer = staticmethod(requests.infer)
    fetch = staticmethod(requests.fetch)
    cancel = staticmethod(requests.cancel)
    get = staticmethod(requests.get)
    change = staticmethod(requests.change)

    def __init__(self, url: str) -> None:
        self._url = url

    def index(self) -> Request:
        """See `Wire`."""
        return requests.INDEX

    def ready(self) -> Request:
        """See `Wire`."""
        return requests.READY

    def result(self, answered: Answered) -> InferResult:
        """See `Wire`."""
        return requests.result(answered.headers, answered.body)

    def pending(self, answered: Answered) -> Pending:
        """See `Wire`."""
        return requests.pending(answered.headers, answered.body)

    def document(self, request: Request, answered: Answered) -> Any:
        """See `Wire`."""
        return requests.document(self._url + request.path, answered.body)

    def is_ready(self, _: Answered) -> bool:
        """See `Wire`; a gateway that is not ready answers an error."""
        return True


def is_rpc(url: str) -> bool:
    """Whether the URL is of a gRPC server: `grpc://HOST[:PORT]`, or `grpcs://…` with TLS."""
    return url.partition("://")[0].lower() in ("grpc", "grpcs") and "://" in url
