"""One HTTP connection. Infer requests go from the parser straight to the door; everything else goes the ASGI way.

Invariants:
- responses leave in the order of their requests, one at a time;
- nothing of a request is kept beyond the limits: a head that is too long, a body that is too large, or one that comes too slowly
  ends the connection, with an answer that says why;
- while a client does not read its answers, no more of its requests are read.

Everything about uvicorn's class that this relies on is in this file; `docs/decisions/0002-infer-route-in-uvicorns-protocol.md` says
why it is a subclass.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.rest.errors import error_body
from gateway.rest.exchange import Endpoint, Exchange, Response
from protocol.tensors import Buffer

SMALL_BODY: Final = 64 * 1024
"""Bodies up to this size are not counted while they are read; a connection's receive buffer is as large."""
MAX_FIELDS: Final = 256
"""Headers of one request."""
_JOIN_BELOW: Final = 64 * 1024
_LINGER: Final = 2.0
"""Seconds that the rest of a refused body is read and thrown away, so that the caller sees the answer, not a reset."""
JSON_TYPE: Final = b"content-type: application/json\r\n"
_CLOSE: Final = b"connection: close\r\n"

_log = logging.getLogger("gateway.rest")


class InferConnection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with the infer route taken out of it."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        endpoint: Endpoint,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._endpoint = endpoint
        self._door = endpoint.door
        self._max_header_bytes = endpoint.max_header_bytes
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._date = b""
        self._active: Any = None
        self._in_head = False
        self._head_bytes = 0
        self._large_chunk = False
        self._upgrade_body = 0
        self._refused = False
        self._message = 0
        self._seen_message = -1
        self._quiet = 0
        self._stalled = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        limit = self._endpoint.max_connections
        if len(self.connections) > limit:
            self._refuse(503, f"this gateway has {limit} connections open, the limit (max_connections)")

    # --- reading ------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which calls the methods below."""
        self._quiet = 0
        while data and not self._refused:
            data = self._take_upgrade_body(data) if self._upgrade_body else self._feed(data)

    def _feed(self, data: bytes) -> bytes:
        """Feed the parser; returns what it leaves, which is nothing but after a request that offers an upgrade."""
        self._large_chunk = len(data) > self._max_header_bytes or (self._in_head and self._large_chunk)
        head = self._message if self._in_head else -1
        rest = b""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            cause = error.__context__
            if cause is not None and not isinstance(cause, httptools.HttpParserError | ValueError):
                _log.error("a request could not be taken", exc_info=cause)
            self._refuse(400, f"not an HTTP/1.1 request: {error}"[:200])
        if self._in_head and head == self._message:
            self._head_bytes += len(data)
            if self._head_bytes > self._max_header_bytes:
                self._refuse(431, f"the request's headers have more than {self._max_header_bytes} bytes, the limit")
        return rest

    def on_message_begin(self) -> None:
        """A request line comes."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head = True
        self._head_bytes = 0
        self._message += 1

    def on_headers_complete(self) -> None:
        """All headers are there: find who takes the request."""
        self._in_head = False
        if self._refused or self.transport.is_closing():
            self.cycle = _GONE
            return
        if self._large_chunk or len(self.headers) > MAX_FIELDS:
            size = len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers])
            if size > self._max_header_bytes or len(self.headers) > MAX_FIELDS:
                self.cycle = _GONE
                self._refuse(
                    431, f"the request's headers have {size} bytes in {len(self.headers)} fields, over the limit"
                )
                return
        parser = self.parser
        route = self._door.route(self.url) if parser.get_method() == b"POST" else None
        if route is None:
            self._give_to_asgi()
            return
        keep_alive = parser.should_keep_alive() and parser.get_http_version() != "1.0"
        exchange = Exchange(self, *route, dict(self.headers), keep_alive=keep_alive, expects=self.expect_100_continue)
        if b"upgrade" in exchange.fields and parser.should_upgrade():
            self._upgrade_body = int(exchange.fields.get(b"content-length", b"0"))
        previous, self.cycle = self.cycle, exchange  # type: ignore[assignment]  # it has what the base class reads of a cycle
        if previous is None or previous.response_complete:
            self._start_asgi_task(exchange, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))  # type: ignore[arg-type]

    def on_body(self, body: bytes) -> None:
        """A piece of the body of the request that was begun last."""
        exchange: Any = self.cycle
        if type(exchange) is not Exchange:
            super().on_body(body)
            return
        if exchange.answered:
            return
        held = exchange.body
        if not held:
            exchange.body = body
        elif type(held) is bytearray:
            held += body
        else:
            exchange.body = bytearray(held)
            exchange.body += body
        if len(exchange.body) > SMALL_BODY:
            self._door.grow(exchange)

    def on_message_complete(self) -> None:
        """The request that was begun last is complete."""
        exchange: Any = self.cycle
        if type(exchange) is not Exchange:
            super().on_message_complete()
            return
        if self._upgrade_body:
            return
        exchange.complete = True
        if exchange.response_complete:
            if not exchange.keep_alive:
                self.transport.close()
        elif exchange.started and not exchange.answered:
            self._door.handle(exchange)

    def _take_upgrade_body(self, data: bytes) -> bytes:
        """The body of a request that offers an upgrade (Java's client does so unasked): the parser leaves it to us, as if the
        upgrade had been taken. Returns what follows it."""
        body, rest = data[: self._upgrade_body], data[self._upgrade_body :]
        self._upgrade_body -= len(body)
        self.on_body(body)
        if not self._upgrade_body:
            self.on_message_complete()
        return rest

    def _give_to_asgi(self) -> None:
        """Let uvicorn's own methods see the request from its beginning."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = expects
        super().on_headers_complete()

    # --- turns --------------------------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._active = cycle
        if type(cycle) is not Exchange:
            super()._start_asgi_task(cycle, app)
            return
        cycle.started = True
        self._door.begin(cycle)
        if cycle.answered:
            return
        if cycle.complete:
            self._door.handle(cycle)
        elif cycle.expects:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def respond(self, exchange: Exchange, status: int, head: bytes, parts: Sequence[Buffer], *, close: bool) -> None:
        """Send an exchange's response, and let the next request have its turn after it."""
        close = close or not exchange.keep_alive
        size = len(parts[0]) if len(parts) == 1 else sum([len(part) for part in parts])
        first = b"%b%b%b%bcontent-length: %d\r\n\r\n" % (
            STATUS_LINE[status], self._date_line(), head, _CLOSE if close else b"", size,
        )  # fmt: skip
        pieces = (b"".join((first, *parts)),) if size < _JOIN_BELOW else (first, *parts)
        self._endpoint.outgoing.add(Response(exchange, pieces, close))

    def write_response(self, response: Response) -> None:
        """Write what `respond` sent."""
        transport, exchange = self.transport, response.exchange
        exchange.response_complete = True
        if transport.is_closing():
            return
        if len(response.parts) == 1:
            transport.write(response.parts[0])
        else:
            transport.writelines(response.parts)
        if response.close or not exchange.keep_alive:
            exchange.keep_alive = False
            if exchange.complete:
                transport.close()
            else:
                self.flow.resume_reading()
                self.loop.call_later(_LINGER, transport.close)
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """A response was written: the next request that was read meanwhile has its turn."""
        self.server_state.total_requests += 1
        self._active = None
        self._quiet = 0
        self._advance()

    def _advance(self) -> None:
        """Start the next request, and read on where there is no other; not while the client does not read."""
        if self.flow.write_paused or self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        if not self.pipeline:
            self.flow.resume_reading()

    def _date_line(self) -> bytes:
        """uvicorn's Date header, which it renews every second."""
        lines = self.server_state.default_headers
        if lines is not self._default_headers:
            self._default_headers = lines
            self._date = b"".join([b"%b: %b\r\n" % line for line in lines])
        return self._date

    def pause_writing(self) -> None:
        """The client does not read: read no more of it."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self._active is None:
            self._advance()
        elif not self.pipeline:
            self.flow.resume_reading()

    # --- ends ---------------------------------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone: whoever works for it is told."""
        cycles: list[Any] = [self._active, *[cycle for cycle, _ in self.pipeline]]
        self.pipeline.clear()
        for cycle in cycles:
            if type(cycle) is Exchange:
                cycle.disconnected = True
                self._door.lost(cycle)
            elif cycle is not None and cycle is not self.cycle:
                cycle.disconnected = True
                cycle.message_event.set()
        latest: Any = self.cycle
        if type(latest) is Exchange:
            self.cycle = None  # type: ignore[assignment]
        super().connection_lost(exc)
        self._endpoint.closed()

    def tick(self, keep_alive_ticks: int, read_ticks: int) -> None:
        """Called now and then for every connection: close it where it was idle, or stuck in one message, for so many ticks."""
        if self.transport is None or self.transport.is_closing():
            return
        if self.flow.write_paused:
            self._stalled += 1
            if self._stalled >= read_ticks:
                self.transport.abort()
            return
        if not self.flow.read_paused and self._reading():
            self._stalled = self._stalled + 1 if self._seen_message == self._message else 0
            self._seen_message = self._message
            if self._stalled >= read_ticks:
                self._refuse(408, "the request did not come in time")
            return
        self._stalled = 0
        self._seen_message = -1
        if self._active is None:
            self._quiet += 1
            if self._quiet > keep_alive_ticks:
                self.transport.close()

    def _reading(self) -> bool:
        """Whether a request was begun and the rest of it is awaited."""
        if self._in_head:
            return True
        cycle: Any = self.cycle
        if type(cycle) is Exchange:
            return not cycle.complete
        return cycle is not None and cycle.more_body

    def _refuse(self, status: int, message: str) -> None:
        """Answer what cannot be read as a request, and end the connection once those before it are answered."""
        self._refused = True
        active = self._active
        body = error_body(message)
        if active is None:
            head = b"%bconnection: close\r\ncontent-length: %d\r\n\r\n" % (JSON_TYPE, len(body))
            self.transport.write(b"%b%b%b%b" % (STATUS_LINE[status], self._date_line(), head, body))
            self.transport.close()
        elif type(active) is Exchange and not active.complete:
            self._door.lost(active)
            active.send(status, JSON_TYPE, (body,), close=True)
        elif type(active) is not Exchange and active.more_body:
            self.transport.close()  # the application is told that the client has gone
        else:
            active.keep_alive = False
            self.flow.pause_reading()


class _Gone:
    """Stands for a request on a connection that is being closed: nothing of it is kept."""

    response_complete = True
    complete = True
    more_body = False
    disconnected = True
    keep_alive = False

    def __init__(self) -> None:
        self.message_event = asyncio.Event()


_GONE: Any = _Gone()
