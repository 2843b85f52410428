"""The gRPC server: grpc.aio on the gateway's event loop, with bytes in and bytes out. The only file that knows grpc.

Each call is refused by its metadata, then read, then answered; errors become statuses here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import structlog

os.environ.setdefault(
    "GRPC_VERBOSITY", "NONE"
)  # a client's malformed bytes are no news for this process's standard error

import grpc
import grpc.aio

from gateway.calls.service import Service
from gateway.durable.claims import Claims
from gateway.rest.access import Access
from gateway.rpc.caller import Caller, caller_of
from gateway.rpc.inference import Inference, check_size, unary_response
from gateway.rpc.status import STATUS, error_trailers
from protocol.errors import ConfigError, FleetError, InvalidArgument, Unavailable
from protocol.urls import authority

SERVICE: Final = "inference.GRPCInferenceService"
_STATUS: Final = {status.value[0]: status for status in grpc.StatusCode}
_MAX_DETAILS: Final = 1500
"""Characters of an error in a trailer: clients allow 8 KB of metadata, where a character may take nine bytes."""
_OVERHEAD: Final = 64 * 1024
"""Bytes of a message beyond its tensors."""
_SHUTTING_DOWN: Final = "GRPC server is shutting down and has stopped accepting new requests."

Context = Any
Unary = Callable[[Caller, bytes, Context], Awaitable[bytes]]

_log = structlog.get_logger("gateway.rpc")


class GrpcServer:
    """Listens, drains and closes.

    Attributes:
        port: of its socket, once started.
    """

    def __init__(self, service: Service, claims: Claims, version: str) -> None:
        self._service = service
        self._settings = settings = service.settings
        self._access = Access(settings.api_key)
        self._inference = Inference(service, claims)
        self._limit = settings.max_body_bytes
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._server: Any = None
        self.port = 0

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address is taken or invalid, or a TLS file cannot be used.
        """
        settings = self._settings
        self._server = server = grpc.aio.server(
            options=self._options(), maximum_concurrent_rpcs=settings.max_queued_calls + settings.max_long_polls
        )
        server.add_registered_method_handlers(SERVICE, {"ModelInfer": self._unary(self._model_infer)})
        address = authority(settings.host, settings.grpc_port or 0)
        try:
            if settings.tls_certificate:
                self.port = server.add_secure_port(address, _credentials(settings))
            else:
                self.port = server.add_insecure_port(address)
        except RuntimeError:
            raise ConfigError(
                f"cannot listen on {address}: address already in use; choose another --grpc-port"
            ) from None
        await server.start()

    def _options(self) -> list[tuple[str, int]]:
        settings = self._settings
        return [
            ("grpc.so_reuseport", int(settings.shared_ports)),
            ("grpc.max_receive_message_length", self._limit + _OVERHEAD),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", settings.max_header_bytes // 2),
            ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
            ("grpc.keepalive_time_ms", 7_200_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.http2.max_ping_strikes", 2),
        ]

    async def drain(self) -> None:
        """Refuse new calls, and answer those in flight, for at most the drain grace."""
        if self._server is not None and self._calls:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.drain_grace):
                    await self._idle.wait()

    async def close(self) -> None:
        """End; calls that are left are cancelled."""
        self._inference.close()
        if self._server is not None:
            await self._server.stop(None)

    # --- calls --------------------------------------------------------------------------------------------------------

    def _unary(self, work: Unary) -> Any:
        """A handler of one message in and one out, which authenticates before it reads."""

        async def handle(messages: Any, context: Context) -> bytes | None:
            self._enter()
            try:
                caller = caller_of(context.invocation_metadata(), self._access)
                if self._service.draining:
                    raise Unavailable(_SHUTTING_DOWN, retry_after=1.0)
                message = await context.read()
                if message is grpc.aio.EOF:
                    raise InvalidArgument("the call has no message")
                check_size(len(message), self._limit)
                return await work(caller, message, context)
            except FleetError as error:
                await self._abort(context, error)
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception:
                _log.exception("a call failed inside the gateway")
                await self._abort(context, FleetError("internal error in the gateway; its log has the details"))
            finally:
                self._leave()
            return None

        return grpc.stream_unary_rpc_method_handler(handle)

    async def _model_infer(self, caller: Caller, message: bytes, context: Context) -> bytes:
        answer = await self._inference.infer(caller, message, context.time_remaining())
        context.set_trailing_metadata(answer.trailers)
        if answer.reply.failure is not None:
            raise answer.reply.failure.error()
        return unary_response(answer)

    async def _abort(self, context: Context, error: FleetError) -> None:
        """End a call with an error; raises what grpc.aio's handlers must raise."""
        self._service.count_refusal(error)
        trailers = (*(context.trailing_metadata() or ()), *error_trailers(error))
        await context.abort(_STATUS[STATUS[error.code]], error.message[:_MAX_DETAILS], trailers)

    def _enter(self) -> None:
        self._calls += 1
        self._idle.clear()

    def _leave(self) -> None:
        self._calls -= 1
        if not self._calls:
            self._idle.set()


def _credentials(settings: Any) -> Any:
    def read(path: str, what: str) -> bytes:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(f"{what} '{path}' cannot be read: {error}") from None

    pair = read(settings.tls_key, "TLS key"), read(settings.tls_certificate, "TLS certificate")
    roots = read(settings.tls_client_ca, "client CA") if settings.tls_client_ca else None
    return grpc.ssl_server_credentials([pair], roots, require_client_auth=roots is not None)
