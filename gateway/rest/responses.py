"""Makes an exchange's response: an answer, a 202 or an error, once, whatever fails.

Invariant: every response carries `Penstock-Request-Id`, and none carries a stack trace.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import structlog

from gateway.calls.service import Service
from gateway.ids import trace_context
from gateway.rest import bodies, compression
from gateway.rest.connection import JSON_TYPE
from gateway.rest.errors import STATUS, error_body, error_headers
from gateway.rest.exchange import Exchange
from gateway.rest.extras import Extras
from gateway.rest.generating import write_generated
from gateway.rest.json_pool import JsonPool
from gateway.rest.routing import GENERATE_STREAM, INFER
from gateway.timing import timing_value
from protocol.errors import FleetError, TooLarge
from protocol.messages import InferReply
from protocol.runtime.tasks import BackgroundTasks
from protocol.tensors import Buffer
from protocol.v2 import ResponseBody

THREAD_FROM: Final = 64 * 1024
"""Bodies of this size are compressed in a thread; zlib releases the GIL."""
TEXT_PER_BYTE: Final = 4
"""Approximate bytes of JSON per byte of a tensor."""
_RAW_TYPE: Final = b"content-type: application/octet-stream\r\n"
_EVENTS_TYPE: Final = b"content-type: text/event-stream; charset=utf-8\r\n"
_NOWHERE: Final[frozenset[str]] = frozenset()

_log = structlog.get_logger("gateway.rest")


class Responses:
    """Makes responses; long work runs in tasks."""

    def __init__(self, service: Service, json: JsonPool) -> None:
        self._service = service
        self._json = json
        self._offload_bytes = service.settings.json_offload_bytes
        self._is_logged = logging.getLogger("gateway.rest").isEnabledFor
        self._loop = asyncio.get_running_loop()
        self._tasks = BackgroundTasks("responses")

    async def close(self) -> None:
        """Wait for the responses in flight."""
        await self._tasks.join()

    def spawn(self, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        """Run work on an exchange as a task; its exception becomes the response."""
        self._tasks.spawn(self._guard(exchange, work))

    def answer(self, exchange: Exchange, reply: InferReply) -> None:
        """Respond with an answer; a large or compressed one is made in a task."""
        if exchange.disconnected:
            return
        try:
            failure = reply.failure
            if failure is not None:
                form, parts = _form_of(failure.error()), (error_body(failure.message),)
                if exchange.verb == GENERATE_STREAM:
                    form, parts = form.replace(JSON_TYPE, _EVENTS_TYPE), (_event(parts[0]),)
                self._write(exchange, STATUS[failure.code], parts, reply, form)
            elif exchange.extras is None:
                self._answer_plainly(exchange, reply)
            elif exchange.extras.takes_long(reply):
                self.spawn(exchange, self._apply_aside(exchange, exchange.extras, reply))
            else:
                self._answer_plainly(exchange, exchange.extras.apply(reply))
        except FleetError as error:
            self.refuse(exchange, error)
        except Exception:
            self.broken(exchange)

    async def _apply_aside(self, exchange: Exchange, extras: Extras, reply: InferReply) -> None:
        self._answer_plainly(exchange, await asyncio.to_thread(extras.apply, reply))

    def _answer_plainly(self, exchange: Exchange, reply: InferReply) -> None:
        """Respond with outputs."""
        if bodies.json_bytes(reply, exchange.binary) * TEXT_PER_BYTE > self._offload_bytes:
            self.spawn(exchange, self._answer_large(exchange, reply))
        elif exchange.verb != INFER:
            self._write_generated(exchange, reply, write_generated(reply))
        else:
            elsewhere = _NOWHERE if exchange.extras is None else exchange.extras.elsewhere
            self._encode(exchange, reply, bodies.render(reply, exchange.binary, elsewhere))

    def _write_generated(self, exchange: Exchange, reply: InferReply, text: Buffer) -> None:
        if exchange.verb == GENERATE_STREAM:
            self._write(exchange, 200, (_event(text),), reply, _EVENTS_TYPE)
        else:
            self._write(exchange, 200, (text,), reply, JSON_TYPE)

    def accepted(self, exchange: Exchange, token: str) -> None:
        """Respond 202 with the location of the answer."""
        request_id, location = exchange.id.encode(), b"/v2/requests/" + token.encode()
        head = b"%blocation: %b\r\npreference-applied: respond-async\r\npenstock-request-id: %b\r\n" % (
            JSON_TYPE, location, request_id,
        )  # fmt: skip
        self._send(exchange, 202, head, (b'{"id":"%b","state":"queued","location":"%b"}' % (request_id, location),))

    def refuse(self, exchange: Exchange, error: FleetError) -> None:
        """Respond to a request that was refused."""
        self._service.count_refusal(error)
        self.release(exchange)
        exchange.id = exchange.id or self._service.new_id()
        head = b"%bpenstock-request-id: %b\r\n" % (_form_of(error), exchange.id.encode())
        unread = isinstance(error, TooLarge) and not exchange.complete
        self._send(exchange, STATUS[error.code], head, (error_body(error.message),), close=unread)

    def broken(self, exchange: Exchange) -> None:
        """Respond to a fault of the gateway: the trace goes to the log, its request id to the caller."""
        exchange.id = exchange.id or self._service.new_id()
        _log.exception(
            "a request failed inside the gateway",
            request_id=exchange.id,
            traceparent=_trace(exchange),
            model=exchange.model,
        )
        self.refuse(
            exchange, FleetError("internal error in the gateway; its log has the details under this request's id")
        )

    def reserve(self, exchange: Exchange, size: int) -> None:
        """Count `size` bytes in all for an exchange, or none if its client has gone.

        Raises:
            Exhausted: too many bytes are held.
        """
        if not exchange.disconnected:
            self._service.admission.reserve(size - exchange.reserved)
            exchange.reserved = size

    def release(self, exchange: Exchange) -> None:
        """Free the exchange's body."""
        exchange.body = b""
        if exchange.reserved:
            self._service.admission.release(exchange.reserved)
            exchange.reserved = 0

    async def _guard(self, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except FleetError as error:
            self.refuse(exchange, error)
        except Exception:
            self.broken(exchange)

    async def _answer_large(self, exchange: Exchange, reply: InferReply) -> None:
        elsewhere = _NOWHERE if exchange.extras is None else exchange.extras.elsewhere
        body = await self._json.render(
            reply, exchange.binary, exchange.until, elsewhere, generate=exchange.verb != INFER
        )
        self.reserve(exchange, _size(body))
        if exchange.verb == INFER:
            self._encode(exchange, reply, body)
        else:
            self._write_generated(exchange, reply, body.parts[0])

    def _encode(self, exchange: Exchange, reply: InferReply, body: ResponseBody) -> None:
        accept = exchange.fields.get(b"accept-encoding")
        if accept is not None:
            size = _size(body)
            encoding = compression.choose(accept.decode("latin-1")) if size >= compression.COMPRESS_FROM else ""
            if encoding and size >= THREAD_FROM:
                self.spawn(exchange, self._compress(exchange, reply, body, encoding))
                return
            if encoding:
                packed = compression.compress(body.parts, encoding)
                self._write(exchange, 200, (packed,), reply, _form(body, encoding))
                return
        self._write(exchange, 200, body.parts, reply, _form(body))

    async def _compress(self, exchange: Exchange, reply: InferReply, body: ResponseBody, encoding: str) -> None:
        self.reserve(exchange, _size(body))
        packed = await self._loop.run_in_executor(None, compression.compress, body.parts, encoding)
        self._write(exchange, 200, (packed,), reply, _form(body, encoding))

    def _write(self, exchange: Exchange, status: int, parts: Sequence[Buffer], reply: InferReply, form: bytes) -> None:
        timing = timing_value(reply.timing, reply.woken)
        head = b"%bpenstock-request-id: %b\r\n" % (form, exchange.id.encode())
        if timing:
            head = b"%bpenstock-timing: %b\r\n" % (head, timing)
        self._send(exchange, status, head, parts)

    def _send(
        self, exchange: Exchange, status: int, head: bytes, parts: Sequence[Buffer], *, close: bool = False
    ) -> None:
        exchange.respond(status, head, parts, close=close)
        if exchange.reserved:
            self.release(exchange)
        if self._is_logged(logging.DEBUG):
            _log.debug(
                "answered", request_id=exchange.id, traceparent=_trace(exchange), model=exchange.model, version=exchange.version,
                status=status, ms=round((self._service.clock() - exchange.accepted) * 1e3, 3) if exchange.accepted else None,
            )  # fmt: skip


def _event(text: Buffer) -> bytes:
    """A server-sent event: JSON has no line breaks."""
    return b"".join((b"data: ", text, b"\n\n"))


def _size(body: ResponseBody) -> int:
    return sum([len(part) for part in body.parts])


def _trace(exchange: Exchange) -> str:
    return trace_context(exchange.fields.get(b"traceparent", b"").decode("latin-1"), exchange.id)


def _form_of(error: FleetError) -> bytes:
    lines = [b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in error_headers(error)]
    return b"".join((JSON_TYPE, *lines))


def _form(body: ResponseBody, encoding: str = "") -> bytes:
    """The header lines that describe a body."""
    if body.header_length is None:
        lines = JSON_TYPE
    else:
        lines = b"%binference-header-content-length: %d\r\n" % (_RAW_TYPE, body.header_length)
    return b"%bcontent-encoding: %b\r\n" % (lines, encoding.encode()) if encoding else lines
