"""The gRPC server: calls of `http2` to the methods that answer them.

Each call is refused by its metadata, then read, then answered; errors become statuses here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import structlog

from gateway.calls.service import Service
from gateway.durable.claims import Claims
from gateway.forwarding import ForwardedHeaders
from gateway.repository.control import RepositoryControl
from gateway.rest.access import Access
from gateway.rest.inflating import Inflater
from gateway.rest.unread import Unread
from gateway.restrictions import GRPC_PREFIX, Restrictions, method_category
from gateway.rpc import reflection, replies
from gateway.rpc.caller import Caller, caller_of
from gateway.rpc.http2.call import Call
from gateway.rpc.http2.connection import Connection, Endpoint
from gateway.rpc.http2.messages import Message, Received
from gateway.rpc.inference import Inference
from gateway.rpc.listening import listener_of, tls_context
from gateway.rpc.management import Management, encoded
from gateway.rpc.status import STATUS, Trailers, details, error_trailers
from gateway.rpc.streaming import BROKEN, Stream
from protocol.errors import DeadlineExceeded, FleetError, InvalidArgument, Unavailable, Unsupported
from protocol.tensors import Buffer
from protocol.urls import authority

SERVICE: Final = "inference.GRPCInferenceService"
_HEALTH: Final = "grpc.health.v1.Health"
_REFLECTION: Final = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_REFLECT: Final = "ServerReflectionInfo"
_WINDOW_BITS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_ACCEPTS: Final = 16
"""Listening descriptors of one socket, as for HTTP: libuv accepts one connection per turn and descriptor."""
_TICK: Final = 1.0
"""Seconds until a connection that was told goodbye is closed, whether its peer has read that or not."""
_WATCH_EVERY: Final = 0.5
_LARGE: Final = 64 * 1024
"""Larger answers are compressed in a thread."""
_SHUTTING_DOWN: Final = "GRPC server is shutting down and has stopped accepting new requests."
_UNIMPLEMENTED: Final = 12
_EXHAUSTED: Final = 8

Work = Callable[[Caller, Call], Awaitable[None]]

_log = structlog.get_logger("gateway.rpc")


class Method(NamedTuple):
    """One method.

    Attributes:
        work: reads the call and ends it.
        category: for restrictions.
        guarded: whether it needs the API key.
        unary: whether it has one request, which must come soon.
    """

    work: Work
    category: str
    guarded: bool
    unary: bool


class GrpcServer:
    """Listens, drains and closes.

    Attributes:
        port: of its socket, once started.
    """

    def __init__(self, service: Service, claims: Claims, repository: RepositoryControl, version: str) -> None:
        settings = service.settings
        self._service = service
        self._settings = settings
        self._access = Access(settings.api_key, Restrictions(settings.grpc_restricted_protocol, GRPC_PREFIX))
        self._forwarding = ForwardedHeaders(settings.grpc_header_forward_pattern)
        self._inference = Inference(service, claims)
        self._management = Management(service, repository, version)
        self._inflater = Inflater()
        self._loop = asyncio.get_running_loop()
        self._most = settings.max_queued_calls + settings.max_long_polls
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._streams: dict[Stream, Call] = {}
        self._methods = self._all_methods()
        self._servers: list[asyncio.Server] = []
        self._ticking: asyncio.TimerHandle | None = None
        self._endpoint = Endpoint(
            self._begin, settings.max_header_bytes, settings.max_body_bytes, settings.max_connections,
            service.admission.reserve, service.admission.release, service.budgets.unauthenticated,
            Unread(service.budgets.unread), {}, self._loop.time,
        )  # fmt: skip
        self.port = 0

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address is taken or invalid, or a TLS file cannot be used.
        """
        settings = self._settings
        context = tls_context(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        listener = listener_of(settings.host, settings.grpc_port or 0, shared=settings.shared_ports)
        self.port = listener.getsockname()[1]
        for each in [listener, *[listener.dup() for _ in range(_ACCEPTS - 1)]]:
            self._servers.append(
                await self._loop.create_server(functools.partial(Connection, self._endpoint), sock=each, ssl=context)
            )
        self._ticking = self._loop.call_later(_TICK, self._tick)
        _log.debug("gRPC is served", address=authority(settings.host, self.port))

    async def drain(self) -> None:
        """Refuse new calls, end streams that wait for requests, and answer calls in flight, for at most the drain grace."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_grace):
                while self._calls:
                    self._end_idle_streams()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_WATCH_EVERY):
                            await self._idle.wait()

    async def close(self) -> None:
        """End; calls that are left are cancelled."""
        if self._ticking is not None:
            self._ticking.cancel()
        self._inference.close()
        for server in self._servers:
            server.close()
        for connection in list(self._endpoint.open):
            for call in list(connection.calls.values()):
                self._fail(call, Unavailable(_SHUTTING_DOWN, retry_after=1.0))
            connection.leave()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WATCH_EVERY):
                await self._idle.wait()
        for connection in list(self._endpoint.open):
            connection.abort()

    def _end_idle_streams(self) -> None:
        for stream, call in list(self._streams.items()):
            if not stream.waiting:
                self._fail(call, Unavailable(_SHUTTING_DOWN, retry_after=1.0))
                if call.task is not None:
                    call.task.cancel()

    def _tick(self) -> None:
        """End connections that do not speak, calls whose request does not come, and calls whose deadline has passed."""
        self._ticking = self._loop.call_later(_TICK, self._tick)
        now, patience = self._loop.time(), self._settings.read_timeout
        for connection in list(self._endpoint.open):
            connection.abort_if_silent(now, patience)
            for call in list(connection.calls.values()):
                if call.deadline is not None and now > call.deadline + _TICK:
                    self._fail(call, DeadlineExceeded("Deadline Exceeded"))
                    if call.task is not None:
                        call.task.cancel()
                elif call.reading and now - call.started > patience and self._is_unary(call):
                    call.fail(DeadlineExceeded(f"the request did not arrive within {patience:g} s"))

    def _is_unary(self, call: Call) -> bool:
        method = self._methods.get(call.path)
        return method is not None and method.unary

    # --- calls --------------------------------------------------------------------------------------------------------

    def _begin(self, call: Call) -> None:
        method = self._methods.get(call.path)
        if method is None:
            call.finish(_UNIMPLEMENTED, "Method not found!")
        elif self._calls >= self._most:
            call.finish(_EXHAUSTED, "Concurrent RPC limit exceeded!")
        else:
            self._calls += 1
            self._idle.clear()
            call.task = self._loop.create_task(self._run(method, call))
            call.task.add_done_callback(self._ended)  # also of a task that is cancelled before it begins

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls -= 1
        if not self._calls:
            self._idle.set()

    async def _run(self, method: Method, call: Call) -> None:
        """Authenticate, do the work, and turn errors into statuses."""
        try:
            caller = caller_of(
                call.metadata,
                self._access,
                guarded=method.guarded,
                category=method.category,
                forwarding=self._forwarding,
            )
            if method.guarded and self._service.draining:
                raise Unavailable(_SHUTTING_DOWN, retry_after=1.0)
            if caller.compression:
                call.compress(caller.compression)
            await method.work(caller, call)
        except FleetError as error:
            self._service.count_refusal(error)
            self._fail(call, error)
        except Exception:
            _log.exception("a call failed inside the gateway")
            self._fail(call, FleetError(BROKEN))
        finally:
            call.release()

    def _fail(self, call: Call, error: FleetError, trailers: Trailers = ()) -> None:
        call.finish(STATUS[error.code], details(error.message), (*trailers, *error_trailers(error)))

    def _all_methods(self) -> dict[str, Method]:
        open_ones = self._management.open
        methods = {
            f"/{SERVICE}/{name}": Method(
                functools.partial(self._manage, name), method_category(name), name not in open_ones, unary=True
            )
            for name in self._management.methods
        }
        methods[f"/{SERVICE}/ModelInfer"] = Method(self._model_infer, "inference", guarded=True, unary=True)
        methods[f"/{SERVICE}/ModelStreamInfer"] = Method(
            self._model_stream_infer, "inference", guarded=True, unary=False
        )
        methods[f"/{_HEALTH}/Check"] = Method(self._check, "health", guarded=False, unary=True)
        methods[f"/{_HEALTH}/Watch"] = Method(self._watch, "health", guarded=False, unary=False)
        for name in _REFLECTION:
            methods[f"/{name}/{_REFLECT}"] = Method(self._reflect, "metadata", guarded=True, unary=False)
        return methods

    # --- methods ------------------------------------------------------------------------------------------------------

    async def _model_infer(self, caller: Caller, call: Call) -> None:
        self._inference.check_open(caller)
        message = await self._message(call)
        answer = await self._inference.infer(caller, message, self._seconds(call), call.release)
        reply = answer.reply
        if reply.failure is not None:
            self._fail(call, reply.failure.error(), answer.trailers)
            return
        await self._answer(caller, call, replies.encode(reply, reply.outputs), answer.trailers)

    async def _model_stream_infer(self, caller: Caller, call: Call) -> None:
        stream = Stream(self._inference, caller, functools.partial(self._seconds, call), self._service.count_refusal)
        self._streams[stream] = call
        try:
            await stream.run(functools.partial(self._next, call), functools.partial(self._write, caller, call))
        finally:
            self._streams.pop(stream, None)
        call.finish()

    async def _manage(self, method: str, caller: Caller, call: Call) -> None:
        message = bytes(await self._message(call))
        await self._answer(caller, call, [await self._management.answer(method, caller, message)])

    async def _check(self, caller: Caller, call: Call) -> None:
        await self._message(call)
        await self._answer(caller, call, [self._health()])

    async def _watch(self, caller: Caller, call: Call) -> None:
        await self._message(call)
        told = b""
        while not call.closed:
            health = self._health()
            if health != told:
                told = health
                await call.write([health])
            await asyncio.sleep(_WATCH_EVERY)

    def _health(self) -> bytes:
        status = "SERVING" if self._management.ready else "NOT_SERVING"
        return encoded("grpc.health.v1.HealthCheckResponse", {"status": status})

    async def _reflect(self, caller: Caller, call: Call) -> None:
        while (message := await self._next(call)) is not None:
            await call.write([reflection.answer(bytes(message))])
        call.finish()

    # --- messages -----------------------------------------------------------------------------------------------------

    def _seconds(self, call: Call) -> float | None:
        """Until the call's deadline."""
        return None if call.deadline is None else call.deadline - self._loop.time()

    async def _message(self, call: Call) -> Message:
        """The only message of a call."""
        received = await call.read()
        if received is None:
            raise InvalidArgument("the call has no message")
        return await self._plain(call, received) if received.compressed else received.data

    async def _next(self, call: Call) -> Message | None:
        """The next message of a stream; None at its end."""
        received = await call.read()
        if received is None:
            return None
        return await self._plain(call, received) if received.compressed else received.data

    async def _plain(self, call: Call, received: Received) -> Message:
        """A compressed message, inflated; its bytes are counted."""
        encoding = call.head.encoding
        if encoding not in _WINDOW_BITS:
            raise Unsupported(f"Unsupported compression type '{encoding[:64]}'; gzip and deflate are supported")

        def reserve(size: int) -> None:
            more = size - call.reserved
            if more > 0:
                self._service.admission.reserve(more)
                call.reserved += more

        raw = await self._inflater.inflate(received.data, encoding, self._settings.max_body_bytes, reserve)
        return memoryview(raw).toreadonly()

    async def _answer(self, caller: Caller, call: Call, pieces: Sequence[Buffer], metadata: Trailers = ()) -> None:
        """End a call with its only message."""
        if caller.compression:
            pieces = [await _compressed(pieces, caller.compression)]
        call.finish(0, "", metadata, pieces, compressed=bool(caller.compression))

    async def _write(self, caller: Caller, call: Call, message: bytes) -> None:
        pieces: Sequence[Buffer] = [message]
        if caller.compression:
            pieces = [await _compressed(pieces, caller.compression)]
        await call.write(pieces, compressed=bool(caller.compression))


async def _compressed(pieces: Sequence[Buffer], encoding: str) -> bytes:
    if sum([memoryview(piece).nbytes for piece in pieces]) > _LARGE:
        return await asyncio.to_thread(_compress, pieces, encoding)
    return _compress(pieces, encoding)


def _compress(pieces: Sequence[Buffer], encoding: str) -> bytes:
    engine = zlib.compressobj(1, wbits=_WINDOW_BITS[encoding])
    return b"".join([*[engine.compress(piece) for piece in pieces], engine.flush()])
