"""The scaler's gRPC: KEDA's five methods and the standard health check, on our own HTTP/2.

Streams say what is so when they are opened, and after that each change. They outlive times in which too little is known: they then
say nothing, so that the last word stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from google.protobuf.message import DecodeError

from gateway.admission.budget import Budgets
from gateway.rest.unread import Unread
from gateway.rpc.http2.call import Call
from gateway.rpc.http2.connection import Connection, Endpoint
from gateway.rpc.listening import listener_of, tls_context
from gateway.rpc.status import STATUS, details, error_trailers
from gateway.scaler.knowledge import Knowledge
from gateway.scaler.metadata import Trigger, trigger_of
from gateway.scaler.settings import ScalerSettings
from gateway.scaling.wanted import reported
from protocol.errors import (
    CodecError,
    DeadlineExceeded,
    Exhausted,
    FleetError,
    InvalidArgument,
    Unsupported,
)
from protocol.proto import message_class
from protocol.urls import authority

SERVICE: Final = "externalscaler.ExternalScaler"
HEALTH: Final = "/grpc.health.v1.Health/Check"
METRIC: Final = "penstock-workers"
"""The only metric: the number of wanted workers, whose target per replica is 1."""
MAX_MESSAGE: Final = 256 * 1024
MAX_HEADER: Final = 32 * 1024
HELD: Final = 64 * 1024 * 1024
"""Bytes that callers may hold."""
_TICK: Final = 1.0
_PATIENCE: Final = 30.0
"""Seconds within which a connection must begin and a call's message must arrive."""
_ENDS_WITHIN: Final = 0.5
_CHANGES_WITHIN: Final = 5.0
"""Seconds after which a stream looks again, whether it was told of a change or not."""
_UNIMPLEMENTED: Final = 12
_EXHAUSTED: Final = 8

_log = structlog.get_logger("gateway.scaler")

Work = Callable[[Call], Awaitable[None]]


class ScalerServer:
    """Listens and answers.

    Args:
        settings: of the scaler.
        knowledge: what it answers from.

    Attributes:
        port: of its socket, once started.
        pushes: messages of streams that said something new.
    """

    def __init__(self, settings: ScalerSettings, knowledge: Knowledge) -> None:
        self._settings = settings
        self._knowledge = knowledge
        self._loop = asyncio.get_running_loop()
        budgets = self._budgets = Budgets.of(HELD)
        self._endpoint = Endpoint(
            self._begin, MAX_HEADER, MAX_MESSAGE, settings.max_connections, self._reserve, budgets.whole.give,
            budgets.unauthenticated, Unread(budgets.unread), {}, self._loop.time,
        )  # fmt: skip
        self._methods: dict[str, Work] = {
            f"/{SERVICE}/IsActive": self._is_active,
            f"/{SERVICE}/StreamIsActive": self._stream_is_active,
            f"/{SERVICE}/GetMetricSpec": self._get_metric_spec,
            f"/{SERVICE}/StreamMetricSpec": self._stream_metric_spec,
            f"/{SERVICE}/GetMetrics": self._get_metrics,
            HEALTH: self._check,
        }
        self._calls = 0
        self._server: asyncio.Server | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self.port = 0
        self.pushes = 0

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: the address is taken or invalid, or a TLS file cannot be used.
        """
        settings = self._settings
        context = tls_context(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        listener = listener_of(settings.host, settings.grpc_port)
        self.port = listener.getsockname()[1]
        self._server = await self._loop.create_server(
            functools.partial(Connection, self._endpoint), sock=listener, ssl=context
        )
        self._ticking = self._loop.call_later(_TICK, self._tick)
        _log.info("scaler is serving", address=authority(settings.host, self.port))

    async def close(self) -> None:
        """End; streams are ended in order, so that their callers open them elsewhere."""
        if self._ticking is not None:
            self._ticking.cancel()
        if self._server is not None:
            self._server.close()
        tasks = []
        for connection in list(self._endpoint.open):
            for call in list(connection.calls.values()):
                call.finish()
                if call.task is not None:
                    call.task.cancel()
                    tasks.append(call.task)
            connection.leave()
        if tasks:
            await asyncio.wait(tasks, timeout=_ENDS_WITHIN)
        for connection in list(self._endpoint.open):
            connection.abort()

    def _tick(self) -> None:
        """End connections that do not speak, and calls whose message does not come or whose deadline has passed."""
        self._ticking = self._loop.call_later(_TICK, self._tick)
        now = self._loop.time()
        for connection in list(self._endpoint.open):
            connection.abort_if_silent(now, _PATIENCE)
            for call in list(connection.calls.values()):
                late = call.deadline is not None and now > call.deadline
                if late or (call.reading and now - call.started > _PATIENCE):
                    _fail(call, DeadlineExceeded("Deadline Exceeded"))
                    if call.task is not None:
                        call.task.cancel()

    def _reserve(self, size: int) -> None:
        """Count a large message."""
        if not self._budgets.whole.take(size):
            raise Exhausted(f"{self._budgets.whole.used} bytes of calls wait at this scaler; at most {HELD} may")

    # --- calls --------------------------------------------------------------------------------------------------------

    def _begin(self, call: Call) -> None:
        work = self._methods.get(call.path)
        if work is None:
            call.finish(_UNIMPLEMENTED, f"there is no method {call.path[:256]} here"[:512])
        elif self._calls >= self._settings.max_calls:
            call.finish(_EXHAUSTED, "too many calls at the same time")
        else:
            self._calls += 1
            call.task = self._loop.create_task(self._run(work, call))
            call.task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls -= 1

    async def _run(self, work: Work, call: Call) -> None:
        try:
            await work(call)
        except FleetError as error:
            _fail(call, error)
        except Exception:
            _log.exception("a call failed inside the scaler")
            _fail(call, FleetError("internal error in the scaler; its log has the details"))
        finally:
            call.release()

    # --- methods ------------------------------------------------------------------------------------------------------

    async def _is_active(self, call: Call) -> None:
        trigger = await _trigger(call)
        _answer(call, "IsActiveResponse", result=self._knowledge.group(trigger).active)

    async def _stream_is_active(self, call: Call) -> None:
        trigger = await _trigger(call)
        told: bool | None = None
        while not call.closed:
            with contextlib.suppress(FleetError):
                active = self._knowledge.group(trigger).active
                if active != told:
                    told = active
                    self.pushes += 1
                    await call.write([_message("IsActiveResponse", result=active)])
                    continue
            await self._knowledge.change(_CHANGES_WITHIN)

    async def _get_metric_spec(self, call: Call) -> None:
        await _trigger(call)
        call.finish(message=[_spec()])

    async def _stream_metric_spec(self, call: Call) -> None:
        """The target is always 1 worker per replica: it is said once, and the stream stays open."""
        await _trigger(call)
        await call.write([_spec()])
        while not call.closed:
            await self._knowledge.change(_CHANGES_WITHIN)

    async def _get_metrics(self, call: Call) -> None:
        asked = await _asked(call, "GetMetricsRequest")
        if asked.metricName not in ("", METRIC):
            raise InvalidArgument(f"there is no metric '{asked.metricName[:64]}' here; there is {METRIC}")
        trigger = trigger_of(asked.scaledObjectRef.scalerMetadata)
        group = self._knowledge.group(trigger)
        value = min(reported(group.wanted, group.ready, trigger.tolerance), max(trigger.policy.most, group.wanted))
        found: Any = message_class("externalscaler.GetMetricsResponse")()
        found.metricValues.add(metricName=METRIC, metricValue=value, metricValueFloat=float(value))
        call.finish(message=[found.SerializeToString()])

    async def _check(self, call: Call) -> None:
        await _asked(call, "", "grpc.health.v1.HealthCheckRequest")
        found: Any = message_class("grpc.health.v1.HealthCheckResponse")()
        found.status = 2 if self._knowledge.problem else 1
        call.finish(message=[found.SerializeToString()])


async def _asked(call: Call, name: str, full_name: str = "") -> Any:
    """The only message of a call.

    Raises:
        CodecError: it is no such message.
        InvalidArgument: there is none.
    """
    received = await call.read()
    if received is None:
        raise InvalidArgument("the call has no message")
    if received.compressed:
        raise Unsupported("messages to the scaler must not be compressed")
    try:
        return message_class(full_name or f"externalscaler.{name}").FromString(bytes(received.data))
    except DecodeError as error:
        raise CodecError(f"the message is not a {name}: {error}") from None


async def _trigger(call: Call) -> Trigger:
    return trigger_of((await _asked(call, "ScaledObjectRef")).scalerMetadata)


def _message(name: str, **content: Any) -> bytes:
    message: Any = message_class(f"externalscaler.{name}")(**content)
    raw: bytes = message.SerializeToString()
    return raw


def _answer(call: Call, name: str, **content: Any) -> None:
    call.finish(message=[_message(name, **content)])


def _spec() -> bytes:
    found: Any = message_class("externalscaler.GetMetricSpecResponse")()
    found.metricSpecs.add(metricName=METRIC, targetSize=1, targetSizeFloat=1.0)
    raw: bytes = found.SerializeToString()
    return raw


def _fail(call: Call, error: FleetError) -> None:
    call.finish(STATUS[error.code], details(error.message), error_trailers(error))
