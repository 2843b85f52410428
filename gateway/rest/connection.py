"""One HTTP connection. Infer requests go from the parser straight to the frontend; all others go through ASGI.

Invariants:
- responses leave in the order of their requests, one at a time; malformed requests are answered in their turn too;
- the gateway does not read from a client that does not read its answers, and closes it after a while or when others need the room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence, Sized
from typing import Any, Final

from gateway.rest.errors import error_body, refusal_code
from gateway.rest.exchange import Endpoint, Exchange, QueuedResponse
from gateway.rest.reading import GONE, RequestReader
from gateway.rest.uvicorn_internals import STATUS_LINE, Config, FlowControl, RequestResponseCycle, ServerState
from protocol.tensors import Buffer

_JOIN_BELOW: Final = 64 * 1024
_LINGER: Final = 2.0
"""Seconds for which the rest of a refused request is read and discarded, so that the caller sees the answer, not a reset."""
_WRITE_BUFFER: Final = 8 * 1024
"""Bytes in a connection's write buffer that are not counted."""
JSON_TYPE: Final = b"content-type: application/json\r\n"
_CLOSE: Final = b"connection: close\r\n"
_RETRY: Final = b"retry-after: 1\r\n"


class Refusal:
    """The answer to a malformed request; it waits for its turn like a request."""

    __slots__ = ("body", "status")

    head_bytes = 0
    response_complete = False
    complete = True
    more_body = False
    keep_alive = False
    disconnected = False

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.body = error_body(message)


class _Flow(FlowControl):
    """uvicorn's flow control. It does not resume reading for an application's body while requests wait in the pipeline."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Resume reading unless requests wait."""
        if not self._pipeline:
            super().resume_reading()


class InferConnection(RequestReader):
    """uvicorn's HTTP/1.1 protocol, which handles the infer route itself."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        endpoint: Endpoint,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop, endpoint=endpoint)
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._date = b""
        self._ended = False
        self._lingering: asyncio.TimerHandle | None = None
        self._seen_message = -1
        self._stalled = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Set up a new connection; refuse it over the limit."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        transport.set_write_buffer_limits(_WRITE_BUFFER, 0)
        limit = self._endpoint.max_connections
        if len(self.connections) > limit:
            self._refuse(503, f"this gateway has {limit} connections open, which is its limit")
            transport.close()

    # --- turns --------------------------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._active = cycle
        if type(cycle) is Refusal:
            self._write_refusal(cycle)
            return
        if type(cycle) is not Exchange:
            super()._start_asgi_task(cycle, app)
            return
        cycle.started = True
        if cycle.early is not None:
            self._endpoint.outgoing.add(cycle.early)
            return
        self._frontend.begin(cycle)
        if cycle.answered:
            return
        if cycle.complete:
            self._frontend.handle(cycle)
        elif cycle.expects:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def queue_response(
        self, exchange: Exchange, status: int, head: bytes, parts: Sequence[Buffer], *, close: bool
    ) -> None:
        """Queue an exchange's response; it is written in its turn."""
        close = close or not exchange.keep_alive
        origins = self._endpoint.origins
        if origins is not None:
            head += origins.lines(exchange.fields)
        size = len(parts[0]) if len(parts) == 1 else sum([len(part) for part in parts])
        first = b"%b%b%b%bcontent-length: %d\r\n\r\n" % (
            STATUS_LINE[status], self._date_line(), head, _CLOSE if close else b"", size,
        )  # fmt: skip
        pieces = (b"".join((first, *parts)),) if size < _JOIN_BELOW else (first, *parts)
        response = QueuedResponse(exchange, pieces, close)
        if exchange.started:
            self._endpoint.outgoing.add(response)
        else:
            exchange.early = response

    def write_response(self, response: QueuedResponse) -> None:
        """Write a queued response, and start the next request."""
        transport, exchange = self.transport, response.exchange
        exchange.response_complete = True
        exchange.early = None
        if transport.is_closing():
            return
        if len(response.parts) == 1:
            transport.write(response.parts[0])
        else:
            transport.writelines(response.parts)
        if self.flow.write_paused:
            self._hold_unread()
        if response.close or not exchange.keep_alive:
            exchange.keep_alive = False
            if response.close or self.pipeline or self._reading():
                self._end()  # unread input would turn a close into a reset
            else:
                transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """A response was written: start the next request of the pipeline."""
        self.server_state.total_requests += 1
        self._active = None
        self._quiet = 0
        self._advance()
        if self._share.size and not self.pipeline and not self._ended:
            self._count()

    def _advance(self) -> None:
        """Start the next request, or resume reading; do neither while the client does not read."""
        if self._ended or self.flow.write_paused or self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        if self._rest and not self.pipeline:
            rest, self._rest = self._rest, b""
            self._read(rest)
            self._count()
        if not self.pipeline:
            self.flow.resume_reading()

    def _date_line(self) -> bytes:
        """The Date header line, cached until `server` renews it."""
        lines = self.server_state.default_headers
        if lines is not self._default_headers:
            self._default_headers = lines
            self._date = b"".join([b"%b: %b\r\n" % line for line in lines])
        return self._date

    def pause_writing(self) -> None:
        """The client does not read: stop reading from it, and count its unread bytes."""
        super().pause_writing()
        self.flow.pause_reading()
        self._hold_unread()

    def _hold_unread(self) -> None:
        """Count the client's unread bytes; over the limit, abort the connections that have not read for longest."""
        for transport in self._endpoint.unread.hold(self.transport, self.transport.get_write_buffer_size()):
            transport.abort()

    def resume_writing(self) -> None:
        """The client reads again: resume."""
        super().resume_writing()
        self._endpoint.unread.drop(self.transport)
        if self._active is None:
            self._advance()
        elif not self.pipeline:
            self.flow.resume_reading()

    # --- ends ---------------------------------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone: cancel its requests."""
        self._endpoint.unread.drop(self.transport)
        self._share.free()
        if self._lingering is not None:
            self._lingering.cancel()
        cycles: list[Any] = [self._active, *[cycle for cycle, _ in self.pipeline]]
        self.pipeline.clear()
        for cycle in cycles:
            if type(cycle) is Exchange:
                cycle.disconnected = True
                self._frontend.lost(cycle)
            elif isinstance(cycle, RequestResponseCycle) and cycle is not self.cycle:
                cycle.disconnected = True
                cycle.message_event.set()
        latest: Any = self.cycle
        if type(latest) is Exchange:
            self.cycle = None
        super().connection_lost(exc)
        self._endpoint.closed()

    def tick(self, keep_alive_ticks: int, read_ticks: int) -> None:
        """Called periodically: close the connection if it was idle, or stuck in one message, for this many ticks."""
        if self.transport is None:
            return
        if self.flow.write_paused or self.transport.is_closing():  # closing waits until the client has read
            self._stalled += 1
            if self._stalled >= read_ticks:
                self.transport.abort()
            return
        if not self.flow.read_paused and self._reading():
            self._stalled = self._stalled + 1 if self._seen_message == self._message else 0
            self._seen_message = self._message
            if self._stalled >= read_ticks:
                self._refuse(408, "the request was not received in time")
            return
        self._stalled = 0
        self._seen_message = -1
        if self._active is None:
            self._quiet += 1
            if self._quiet > keep_alive_ticks:
                self.transport.close()

    def _reading(self) -> bool:
        """Whether part of a request was read and the rest is awaited."""
        return self._in_head or self._in_body

    def _refuse(self, status: int, message: str) -> None:
        """Answer a malformed request in its turn, and end the connection.

        If the fault is in the rest of a request that was begun, that request gets this answer unless it has one.
        """
        if self._refused:
            return
        self._refused = True
        self.parser = None  # frees the head that it holds
        self.headers, self.url, self._rest = [], b"", b""
        cycle: Any = self.cycle
        if type(cycle) is Exchange and not cycle.complete:
            self._refuse_rest(cycle, status, message)
        elif isinstance(cycle, RequestResponseCycle) and cycle.more_body:
            self._refuse_plain_rest(cycle, status, message)
        else:
            self._queue(Refusal(status, message))

    def _refuse_rest(self, exchange: Exchange, status: int, message: str) -> None:
        if exchange.response_complete:
            self._end()
        elif exchange.answered:
            exchange.keep_alive = False
        else:
            self._frontend.lost(exchange)
            exchange.respond(status, JSON_TYPE, (error_body(message),), close=True)

    def _refuse_plain_rest(self, cycle: RequestResponseCycle, status: int, message: str) -> None:
        if cycle.response_complete:
            self._end()
            return
        if cycle.response_started:
            cycle.keep_alive = False
            return
        cycle.disconnected = True  # discards what the application still sends
        cycle.message_event.set()
        self.cycle = GONE
        if cycle is self._active:
            self._active = None
        elif self.pipeline:
            self.pipeline.popleft()
        self._queue(Refusal(status, message))

    def _queue(self, refusal: Refusal) -> None:
        if self._active is None and not self.pipeline and not self.flow.write_paused:
            self._start_asgi_task(refusal, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((refusal, self.app))

    def _write_refusal(self, refusal: Refusal) -> None:
        status = refusal.status
        self._endpoint.refused(refusal_code(status))
        head = b"%bpenstock-error: %b\r\n%bconnection: close\r\ncontent-length: %d\r\n\r\n" % (
            JSON_TYPE, refusal_code(status).encode(), _RETRY if status == 503 else b"", len(refusal.body),
        )  # fmt: skip
        self.transport.write(b"%b%b%b%b" % (STATUS_LINE[status], self._date_line(), head, refusal.body))
        self._end()

    def _end(self) -> None:
        """Take no more requests: discard input for `_LINGER` seconds, then close."""
        if self._ended or self.transport.is_closing():
            return
        self._ended = self._refused = True
        self._active = None
        self._in_head = self._in_body = False
        self.pipeline.clear()
        self._rest = b""
        self._share.free()
        transport = self.transport
        if transport.can_write_eof():
            transport.write_eof()
        self.flow.resume_reading()
        self._lingering = self.loop.call_later(_LINGER, transport.close)
