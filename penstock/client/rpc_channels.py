"""RPCs by grpcio, which is imported here alone, when the first client over gRPC is made.

Messages pass as bytes: gRPC neither makes nor reads protobuf objects. A client has one connection, which gRPC opens and mends.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final

from penstock.client.addresses import Address, rpc_address
from penstock.client.exchange import Answered
from penstock.client.requests import Request
from penstock.client.rpc_errors import error_of, headers_of
from penstock.client.wires import Tls
from protocol.errors import ConfigError, InvalidArgument
from protocol.urls import is_loopback

_SERVICE: Final = "inference.GRPCInferenceService"
_BACKOFF_MS: Final = 100
_LONGEST_BACKOFF_MS: Final = 2000


class RpcRoute:
    """How to reach one gateway over gRPC.

    Args:
        url: `grpc://HOST[:PORT]` or `grpcs://…`.
        api_key: the gateway's, or "".
        tls: for `grpcs`: a context, whose trusted certificates count, or channel credentials of gRPC; None trusts the system's.
        most: bytes of an answer.

    Raises:
        InvalidArgument: the URL, the key or `tls` is invalid.
        ConfigError: grpcio is not installed.
    """

    def __init__(self, url: str, api_key: str, tls: Tls | None, most: int) -> None:
        self.address = rpc_address(url)
        self.url = self.address.url
        self.most = most
        self.fixed = _fixed(self.address, api_key)
        self.grpc = _grpc()
        self._tls = tls
        self._options = [
            ("grpc.max_receive_message_length", most),
            ("grpc.max_send_message_length", -1),
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0 if is_loopback(self.address.host) else 1),
            ("grpc.initial_reconnect_backoff_ms", _BACKOFF_MS),
            ("grpc.min_reconnect_backoff_ms", _BACKOFF_MS),
            ("grpc.max_reconnect_backoff_ms", _LONGEST_BACKOFF_MS),
        ]

    def channel(self, module: Any) -> Any:
        """A channel of `grpc` or `grpc.aio`."""
        if self.address.scheme == "grpc":
            return module.insecure_channel(self.address.authority, options=self._options)
        return module.secure_channel(self.address.authority, self._credentials(), options=self._options)

    def _credentials(self) -> Any:
        if self._tls is not None and not isinstance(self._tls, ssl.SSLContext):
            return self._tls
        trusted = (self._tls or ssl.create_default_context()).get_ca_certs(binary_form=True)
        roots = "".join([ssl.DER_cert_to_PEM_cert(certificate) for certificate in trusted])
        return self.grpc.ssl_channel_credentials(roots.encode() or None)

    def metadata(self, headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """A request's headers and the fixed ones, as metadata.

        Raises:
            InvalidArgument: a value has a character that cannot travel.
        """
        for name, value in headers.items():
            if not value.isascii() or not value.isprintable():
                raise InvalidArgument(f"{name} must be printable ASCII, as it travels as metadata")
        return (*self.fixed, *[(name.lower(), value) for name, value in headers.items()])

    def error(self, error: Any, begun: float) -> Exception:
        """What a failed call means; `begun` is on `time.monotonic`."""
        headers = headers_of(error.initial_metadata(), error.trailing_metadata())
        return error_of(
            self.url, error.code().name, error.details() or "", headers, time.monotonic() - begun, self.most
        )


def _fixed(address: Address, api_key: str) -> tuple[tuple[str, str], ...]:
    if not api_key.isascii() or not api_key.isprintable():
        raise InvalidArgument("the API key must be printable ASCII, as it travels as metadata")  # does not repeat it
    value = f"Bearer {api_key}" if api_key else address.credentials
    return (("authorization", value),) if value else ()


def _grpc() -> Any:
    try:
        import grpc
    except ImportError:
        raise ConfigError("a client over gRPC needs grpcio: pip install 'penstock[grpc]'") from None
    return grpc


def _path(request: Request) -> str:
    return f"/{_SERVICE}/{request.method}"


class BlockingChannel:
    """Makes calls, from any thread."""

    def __init__(self, route: RpcRoute) -> None:
        self._route = route
        self._channel: Any = None
        self._calls: dict[str, Any] = {}
        self._process = os.getpid()
        self._closed = False

    def send(self, request: Request, until: float | None) -> Answered:
        """Make a call; see `BlockingConnections.send`."""
        if self._closed:
            raise InvalidArgument("this client is closed: make a new one")
        if self._process != os.getpid():
            raise InvalidArgument("this client over gRPC was made before a fork: make one in the child")
        call = self._calls.get(request.method)
        if call is None:
            if self._channel is None:
                self._channel = self._route.channel(self._route.grpc)
            call = self._calls[request.method] = self._channel.unary_unary(_path(request))
        metadata = self._route.metadata(request.headers)
        begun = time.monotonic()
        try:
            body, done = call.with_call(
                request.body, timeout=None if until is None else max(0.0, until - begun), metadata=metadata
            )
        except self._route.grpc.RpcError as error:
            raise self._route.error(error, begun) from None
        return Answered(200, headers_of(done.initial_metadata(), done.trailing_metadata()), body)

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self._closed = True
        if self._channel is not None and self._process == os.getpid():
            self._channel.close()


class AsyncChannel:
    """Makes calls on the running event loop.

    Args:
        route: the gateway.
        count: calls in flight at once; more wait in their order.
    """

    def __init__(self, route: RpcRoute, count: int) -> None:
        self._route = route
        self._count = count
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: Any = None
        self._calls: dict[str, Any] = {}
        self._closed = False

    def _bind(self) -> None:
        """Belong to the running loop from now on."""
        if self._closed:
            raise InvalidArgument("this client is closed: make a new one")
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None and not self._loop.is_closed():
            raise InvalidArgument("this client is used by another event loop: make one for each loop")
        self._loop = loop
        self._room = asyncio.Semaphore(self._count)
        self._calls = {}
        self._channel = self._route.channel(self._route.grpc.aio)

    async def send(self, request: Request, until: float | None) -> Answered:
        """Make a call; see `BlockingConnections.send`. Cancelling it cancels the request at the gateway."""
        self._bind()
        metadata = self._route.metadata(request.headers)
        begun = time.monotonic()
        try:
            async with asyncio.timeout(None if until is None else until - begun), self._room:
                return await self._send(request, metadata, until)
        except TimeoutError:
            raise self._late(begun) from None
        except self._route.grpc.aio.AioRpcError as error:
            raise self._route.error(error, begun) from None
        except asyncio.CancelledError:
            if self._closed and not _being_cancelled():  # closing a channel cancels its calls from inside
                raise InvalidArgument("this client was closed in mid-call") from None
            raise

    async def _send(self, request: Request, metadata: tuple[tuple[str, str], ...], until: float | None) -> Answered:
        call = self._calls.get(request.method)
        if call is None:
            call = self._calls[request.method] = self._channel.unary_unary(_path(request))
        left = None if until is None else max(0.0, until - time.monotonic())
        made = call(request.body, timeout=left, metadata=metadata)
        body = await made
        headers = headers_of(await made.initial_metadata(), await made.trailing_metadata())
        return Answered(200, headers, body)

    def _late(self, begun: float) -> Exception:
        waited = time.monotonic() - begun
        return error_of(self._route.url, "DEADLINE_EXCEEDED", "Deadline Exceeded", {}, waited, self._route.most)

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self._closed = True
        if self._channel is not None and self._loop is asyncio.get_running_loop():
            await self._channel.close()


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
