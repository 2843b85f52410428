"""The gRPC server: grpc.aio on the gateway's event loop, with bytes in and bytes out. The only file that knows grpc.

Each call is refused by its metadata, then read, then answered; errors become statuses here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import structlog

os.environ.setdefault(
    "GRPC_VERBOSITY", "NONE"
)  # a client's malformed bytes are no news for this process's standard error

import grpc
import grpc.aio

from gateway.calls.service import Service
from gateway.durable.claims import Claims
from gateway.forwarding import ForwardedHeaders
from gateway.rest.access import Access
from gateway.restrictions import GRPC_PREFIX, Restrictions, method_category
from gateway.rpc import reflection, replies
from gateway.rpc.caller import Caller, caller_of
from gateway.rpc.inference import Inference
from gateway.rpc.management import Management, encoded
from gateway.rpc.status import STATUS, error_trailers
from gateway.rpc.streaming import BROKEN, Stream
from gateway.settings import GatewaySettings
from protocol.errors import ConfigError, FleetError, InvalidArgument, Unavailable
from protocol.urls import authority

SERVICE: Final = "inference.GRPCInferenceService"
_HEALTH: Final = "grpc.health.v1.Health"
_REFLECTION: Final = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_REFLECT: Final = "ServerReflectionInfo"
_STATUS: Final = {status.value[0]: status for status in grpc.StatusCode}
_COMPRESSION: Final = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}
_MAX_DETAILS: Final = 4096
"""Bytes of an error in a trailer, as gRPC writes it: clients allow 8 KB of metadata."""
_OVERHEAD: Final = 64 * 1024
"""Bytes over `max_body_bytes` of messages that are read in order to be refused with our words; gRPC refuses larger ones."""
_WATCH_EVERY: Final = 0.5
_SHUTTING_DOWN: Final = "GRPC server is shutting down and has stopped accepting new requests."

Context = Any
Work = Callable[[Caller, Context], Awaitable[bytes | None]]

_log = structlog.get_logger("gateway.rpc")


class GrpcServer:
    """Listens, drains and closes.

    Attributes:
        port: of its socket, once started.
    """

    def __init__(self, service: Service, claims: Claims, version: str) -> None:
        self._service = service
        self._settings = service.settings
        self._access = Access(
            service.settings.api_key, Restrictions(service.settings.grpc_restricted_protocol, GRPC_PREFIX)
        )
        self._forwarding = ForwardedHeaders(service.settings.grpc_header_forward_pattern)
        self._inference = Inference(service, claims)
        self._management = Management(service, version)
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._streams: dict[Stream, Context] = {}
        self._server: Any = None
        self.port = 0

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address is taken or invalid, or a TLS file cannot be used.
        """
        settings = self._settings
        self._server = server = grpc.aio.server(
            options=_options(settings), maximum_concurrent_rpcs=settings.max_queued_calls + settings.max_long_polls
        )
        server.add_registered_method_handlers(SERVICE, self._inference_methods())
        server.add_registered_method_handlers(
            _HEALTH,
            {
                "Check": self._unary("Check", self._check, guarded=False),
                "Watch": self._streaming("Watch", self._watch, guarded=False),
            },
        )
        for name in _REFLECTION:
            server.add_registered_method_handlers(name, {_REFLECT: self._streaming(_REFLECT, self._reflect)})
        address = authority(settings.host, settings.grpc_port or 0)
        try:
            if settings.tls_certificate:
                self.port = server.add_secure_port(address, _credentials(settings))
            else:
                self.port = server.add_insecure_port(address)
        except RuntimeError:
            raise ConfigError(
                f"cannot listen on {address}: the port is taken, or a TLS file is wrong; choose another --grpc-port"
            ) from None
        await server.start()

    async def drain(self) -> None:
        """Refuse new calls, end streams that wait for requests, and answer calls in flight, for at most the drain grace."""
        if self._server is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_grace):
                while self._calls:
                    await self._end_idle_streams()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_WATCH_EVERY):
                            await self._idle.wait()

    async def close(self) -> None:
        """End; calls that are left are cancelled."""
        self._inference.close()
        if self._server is not None:
            await self._server.stop(None)

    async def _end_idle_streams(self) -> None:
        for stream, context in list(self._streams.items()):
            if not stream.waiting:
                self._streams.pop(stream, None)
                with contextlib.suppress(grpc.aio.AbortError, Exception):
                    await context.abort(grpc.StatusCode.UNAVAILABLE, _SHUTTING_DOWN)

    # --- handlers -----------------------------------------------------------------------------------------------------

    def _inference_methods(self) -> dict[str, Any]:
        management = self._management
        methods = {
            name: self._unary(name, functools.partial(self._manage, name), guarded=name not in management.open)
            for name in management.methods
        }
        return {
            **methods,
            "ModelInfer": self._unary("ModelInfer", self._model_infer),
            "ModelStreamInfer": self._streaming("ModelStreamInfer", self._model_stream_infer),
        }

    def _unary(self, method: str, work: Work, *, guarded: bool = True) -> Any:
        """A handler of one message in and one out. It is one of a stream for gRPC, so that it can refuse before it reads."""

        category = method_category(method)

        async def handle(messages: Any, context: Context) -> bytes | None:
            return await self._guard(work, context, category, guarded=guarded)

        return grpc.stream_unary_rpc_method_handler(handle)

    def _streaming(self, method: str, work: Work, *, guarded: bool = True) -> Any:
        category = method_category(method)

        async def handle(messages: Any, context: Context) -> None:
            await self._guard(work, context, category, guarded=guarded)

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _guard(self, work: Work, context: Context, category: str, *, guarded: bool) -> bytes | None:
        """Authenticate, do the work, and turn errors into statuses."""
        self._calls += 1
        if self._calls == 1:
            self._idle.clear()
        try:
            caller = caller_of(
                context.invocation_metadata(),
                self._access,
                guarded=guarded,
                category=category,
                forwarding=self._forwarding,
            )
            if guarded and self._service.draining:
                raise Unavailable(_SHUTTING_DOWN, retry_after=1.0)
            if caller.compression:
                context.set_compression(_COMPRESSION[caller.compression])
            return await work(caller, context)
        except FleetError as error:
            await self._abort(context, error)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception:
            if context.cancelled() or context.done():
                raise asyncio.CancelledError from None  # its caller has gone, and a read or write told so
            _log.exception("a call failed inside the gateway")
            await self._abort(context, FleetError(BROKEN))
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()
        return None

    async def _abort(self, context: Context, error: FleetError) -> None:
        """End a call with an error; raises what a handler must raise then."""
        self._service.count_refusal(error)
        await self._fail(context, error)

    async def _fail(self, context: Context, error: FleetError) -> None:
        trailers = (*(context.trailing_metadata() or ()), *error_trailers(error))
        await context.abort(_STATUS[STATUS[error.code]], _details(error.message), trailers)

    # --- methods ------------------------------------------------------------------------------------------------------

    async def _model_infer(self, caller: Caller, context: Context) -> bytes:
        self._inference.check_open(caller)
        answer = await self._inference.infer(caller, await _message(context), context.time_remaining())
        context.set_trailing_metadata(answer.trailers)
        reply = answer.reply
        if reply.failure is not None:
            await self._fail(context, reply.failure.error())
        return b"".join(replies.encode(reply, reply.outputs))

    async def _model_stream_infer(self, caller: Caller, context: Context) -> None:
        stream = Stream(self._inference, caller, context.time_remaining, self._service.count_refusal)
        self._streams[stream] = context
        try:
            await stream.run(functools.partial(_next, context), context.write)
        finally:
            self._streams.pop(stream, None)

    async def _manage(self, method: str, caller: Caller, context: Context) -> bytes:
        return await self._management.answer(method, caller, await _message(context))

    async def _check(self, caller: Caller, context: Context) -> bytes:
        await _message(context)
        return self._health()

    async def _watch(self, caller: Caller, context: Context) -> None:
        await _message(context)
        told = b""
        while True:
            health = self._health()
            if health != told:
                told = health
                await context.write(health)
            await asyncio.sleep(_WATCH_EVERY)

    def _health(self) -> bytes:
        status = "SERVING" if self._management.ready else "NOT_SERVING"
        return encoded("grpc.health.v1.HealthCheckResponse", {"status": status})

    async def _reflect(self, caller: Caller, context: Context) -> None:
        while (message := await _next(context)) is not None:
            await context.write(reflection.answer(message))


def _details(text: str) -> str:
    """The text, cut to what a trailer may have; gRPC writes three characters for each byte that is not printable ASCII."""
    kept = text[:_MAX_DETAILS]
    while len(quote(kept)) > _MAX_DETAILS and not (kept.isascii() and kept.isprintable()):
        kept = kept[: len(kept) // 2]
    return kept


async def _next(context: Context) -> bytes | None:
    """The next message of a stream; None at its end."""
    message = await context.read()
    return None if message is grpc.aio.EOF else message


async def _message(context: Context) -> bytes:
    message = await context.read()
    if message is grpc.aio.EOF:
        raise InvalidArgument("the call has no message")
    raw: bytes = message
    return raw


def _options(settings: GatewaySettings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", int(settings.shared_ports)),
        ("grpc.max_receive_message_length", settings.max_body_bytes + _OVERHEAD),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", settings.max_header_bytes // 2),
        ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
        ("grpc.keepalive_time_ms", 7_200_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 2),
    ]


def _credentials(settings: GatewaySettings) -> Any:
    pair = _pem(settings.tls_key, "TLS key"), _pem(settings.tls_certificate, "TLS certificate")
    roots = _pem(settings.tls_client_ca, "client CA") if settings.tls_client_ca else None
    return grpc.ssl_server_credentials([pair], roots, require_client_auth=roots is not None)


def _pem(path: str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{what} '{path}' cannot be read: {error}") from None
