"""Reads the requests of one connection, within limits.

Invariants:
- heads, trailers and everything between chunks have at most `max_header_bytes`, bodies `max_body_bytes`; bodies of routes without
  one are discarded;
- bytes kept beyond one read are counted in the gateway's budget;
- a request in one read whose head is known does not pass the parser, which has then nothing begun;
- a large body of known size is counted, then received into its own memory (`body_receiver`): the parser sees its beginning only;
- an offered upgrade changes nothing: the body ends by its length or its last chunk.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable
from typing import Any, Final

import httptools

from gateway.admission.budget import Share
from gateway.rest.body_receiver import RECEIVE_FROM, SCRATCH, BodyReceiver
from gateway.rest.exchange import Endpoint, Exchange
from gateway.rest.framing import Refused, fault, framing
from gateway.rest.heads import END, MAX_HEAD, Head
from gateway.rest.uvicorn_internals import Config, RequestResponseCycle, ServerState, UvicornConnection, new_parser

MAX_FIELDS: Final = 256
"""Most headers of one request; the same for trailers."""
MAX_PLAIN_BODY: Final = 64 * 1024
"""Largest body of a request that neither infers nor loads a model."""
_LOADS: Final = re.compile(rb"/v2/repository/models/[^/?]+/load\Z")
UNCOUNTED: Final = 4096
"""Bytes of a connection that are too few to count."""
REQUEST_BYTES: Final = 2048
"""Bytes counted for a pipelined request besides its own."""
_WITH_BODY: Final = frozenset({b"POST", b"PUT"})
"""Methods whose bodies are kept outside the infer route."""
_PIECE: Final = 16 * 1024
_MAX_CHUNKS: Final = 64 * 1024
_CHUNK_BYTES: Final = 64
"""A body may have `_MAX_CHUNKS` chunks, and one more per `_CHUNK_BYTES`."""

_log = logging.getLogger("gateway.rest")


class RequestReader(UvicornConnection):
    """The reading half of a connection: from bytes to requests, with limits."""

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
        self._frontend = endpoint.frontend
        self._hosts = endpoint.hosts
        self._heads = endpoint.heads
        self._max_header_bytes = endpoint.max_header_bytes
        self._share = Share(endpoint.budgets.unauthenticated)
        self._in_head = False
        self._in_body = False
        self._dry = 0
        self._measure_head = False
        self._head_bytes = 0
        self._chunks = 0
        self._trailers = [0, 0]
        self._plain_body = -1
        self._offer = b""
        self._muted = False
        self._refused = False
        self._message = 0
        self._quiet = 0
        self._rest = b""
        self._active: Any = None
        self._missing = 0

    # --- bytes --------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which calls the methods below; then count the bytes kept."""
        self._quiet = 0
        if self._rest:
            self._rest += data
        elif self._active is None and self._at_start():
            end = data.find(END, 0, MAX_HEAD) + len(END)
            raw = data[:end]
            head = self._heads.find(raw)
            if head is not None and end + head.length == len(data):
                self._take_known(head, data[end:])
                return
            message = self._message
            self._read(data)
            if self._message == message + 1 and end >= len(END) and not (self._in_head or self._in_body or self._dry):
                self._learn(raw, len(data) - end)
        else:
            self._read(data)
        if self._in_head or self._in_body or self._head_bytes or self.pipeline or self._share.size:
            self._count()

    def _at_start(self) -> bool:
        """Whether the next byte is the first of a request that can have its turn at once."""
        return not (
            self._in_head or self._in_body or self._dry or self._refused or self.pipeline or self._share.size
            or self.flow.write_paused or self.transport.is_closing()
        )  # fmt: skip

    def _take_known(self, head: Head, body: bytes) -> None:
        """Take a whole request with a known head."""
        self._message += 1
        self._head_bytes = 0
        connection: Any = self
        exchange = Exchange(connection, head.model, head.version, head.fields, keep_alive=True, expects=False)
        exchange.verb = head.verb
        exchange.body = body
        exchange.complete = True
        self.cycle = exchange
        self._start_asgi_task(exchange, self.app)  # type: ignore[arg-type]

    def _learn(self, raw: bytes, length: int) -> None:
        """Remember the head of a request that was read at once, alone and as a whole, with a body of this length."""
        exchange: Any = self.cycle
        if type(exchange) is not Exchange or exchange.answered or not exchange.keep_alive or exchange.expects:
            return
        fields = exchange.fields
        if len(exchange.body) == length and b"content-length" in fields and b"upgrade" not in fields:
            self._heads.learn(raw, Head(exchange.model, exchange.version, fields, length, exchange.verb))

    def _read(self, data: bytes) -> None:
        """Feed the parser piece by piece; once a request has to wait for another one, keep the rest as bytes.

        A read of 256 KB can be thousands of requests, which as objects would be ten times as large.
        """
        at, size = 0, len(data)
        while at < size and not self._refused:
            if self._missing:
                at += self._fill(memoryview(data)[at : at + self._missing])
                continue
            piece = data if size <= _PIECE and not at else memoryview(data)[at : at + _PIECE]
            at += len(piece) - self._feed(piece)
            if self.pipeline:
                self._rest = data[at:]
                return
            cycle: Any = self.cycle
            if self._in_body and type(cycle) is Exchange and type(cycle.body) is memoryview:
                self._missing = len(cycle.body) - cycle.filled
        if self._missing >= RECEIVE_FROM and not self._refused:
            self.transport.set_protocol(BodyReceiver(self))

    def _fill(self, piece: memoryview) -> int:
        """Take a piece of a large body past the parser; returns its size."""
        cycle: Any = self.cycle
        if not cycle.answered:
            cycle.add(piece)
        self._filled(len(piece))
        return len(piece)

    def _filled(self, size: int) -> None:
        self._missing -= size
        if not self._missing:
            self.parser = new_parser(self)  # the old one still waits for the body
            self.on_message_complete()

    def room(self) -> memoryview:
        """Where the next bytes of a large body go: its memory, or nowhere if it was answered."""
        cycle: Any = self.cycle
        if self._refused or type(cycle) is not Exchange or cycle.answered:
            return memoryview(bytearray(min(self._missing, SCRATCH)))
        return memoryview(cycle.body)[cycle.filled :]

    def received(self, size: int) -> None:
        """So many bytes of a large body were received where `room` said."""
        if self._refused:
            return
        self._quiet = 0
        cycle: Any = self.cycle
        if not cycle.answered:
            cycle.filled += size
        if size == self._missing:
            self.transport.set_protocol(self)
        self._filled(size)
        if self.pipeline or self._share.size or self._head_bytes:
            self._count()

    def _feed(self, data: bytes | memoryview) -> int:
        """Feed the parser; returns how many bytes it leaves, which it does only after an offered upgrade."""
        size = len(data)
        self._dry += size
        self._measure_head = self._in_head or size > UNCOUNTED
        rest = 0
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = size - upgrade.args[0]
            self._decline_upgrade()
        except httptools.HttpParserError as error:
            cause = error.__context__
            if cause is not None and not isinstance(cause, httptools.HttpParserError | ValueError):
                _log.error("a request could not be read", exc_info=cause)
            self._refuse(400, f"not an HTTP/1.1 request: {error}"[:200])
        if self._dry > self._max_header_bytes:
            self._refuse_dry()
        elif self._chunks > _MAX_CHUNKS:
            self._check_chunks()
        return rest

    def _decline_upgrade(self) -> None:
        """The parser takes an offered upgrade as accepted and the body as another protocol: feed it the framing again."""
        lines, self._offer = self._offer, b""
        if lines and not self._refused:
            self._muted = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % lines)
            self._muted = False
            self._trailers = [0, 0]

    def _refuse_dry(self) -> None:
        what = "headers" if self._in_head else "trailers and chunk extensions" if self._in_body else "empty lines"
        self._refuse(431, f"the request's {what} have more than {self._max_header_bytes} bytes, the limit")

    def _check_chunks(self) -> None:
        cycle: Any = self.cycle
        kept = len(cycle.body) if cycle is not None and self._in_body else 0
        if self._chunks > _MAX_CHUNKS + kept // _CHUNK_BYTES:
            self._refuse(400, f"the request's body has {self._chunks} chunks, which are too small")

    # --- the parser's callbacks ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Start a request."""
        if self._muted:
            return
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head = True
        self._message += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; count and discard a trailer."""
        if not self._in_head:
            trailers = self._trailers
            trailers[0] += len(name) + len(value) + 4
            trailers[1] += 1
            if trailers[0] > self._max_header_bytes or trailers[1] > MAX_FIELDS:
                self._refuse(
                    431, f"the request's trailers have {trailers[0]} bytes in {trailers[1]} fields, over the limit"
                )
            return
        name, value = name.lower(), value.rstrip()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Check the head, and route the request."""
        if self._muted:
            return
        self._in_head = False
        self._in_body = True
        self._dry = 0
        if self._refused or self.transport.is_closing():
            self.cycle = GONE
            return
        headers = self.headers
        fields = dict(headers)
        version = self.parser.get_http_version()
        self._head_bytes = 0
        refused = None
        if self._measure_head or len(headers) > MAX_FIELDS:
            refused = self._measure()
        if version != "1.1" or len(fields) != len(headers) or b"host" not in fields or b"transfer-encoding" in fields:
            refused = refused or fault(version, headers, fields)
            self._trailers = [0, 0]
        if refused is None and self._hosts is not None:
            refused = self._hosts.fault(fields)
        if refused is not None:
            self.cycle = GONE
            self._in_body = False
            self._refuse(*refused)
            return
        if b"upgrade" in fields and self.parser.should_upgrade():
            self._offer = framing(fields)
        self._take(fields, version)

    def _measure(self) -> Refused | None:
        """Check the size of a head that may be large."""
        headers = self.headers
        size = len(self.url) + sum([len(name) + len(value) + 4 for name, value in headers])
        if size > self._max_header_bytes or len(headers) > MAX_FIELDS:
            return 431, f"the request's headers have {size} bytes in {len(headers)} fields, over the limit"
        self._head_bytes = size if size > UNCOUNTED else 0
        return None

    def on_chunk_header(self) -> None:
        """Count a chunk."""
        self._dry = 0
        self._chunks += 1

    def on_body(self, body: bytes) -> None:
        """Append a piece to the body of the newest request."""
        self._dry = 0
        cycle: Any = self.cycle
        if type(cycle) is Exchange:
            if not cycle.answered:
                cycle.add(body)
        elif not cycle.response_complete and not cycle.disconnected:
            room = self._plain_body
            if room > 0:
                cycle.body += body[:room]
                self._plain_body -= len(body)
                cycle.message_event.set()

    def on_message_complete(self) -> None:
        """The newest request is complete."""
        if self._offer:
            return
        self._in_body = False
        if self._chunks:
            self._chunks = 0
        cycle: Any = self.cycle
        if type(cycle) is not Exchange:
            if cycle is not GONE:
                cycle.more_body = False
                cycle.message_event.set()
            return
        cycle.complete = True
        if cycle.started and not cycle.answered:
            self._frontend.handle(cycle)

    # --- who takes it -------------------------------------------------------------------------------------------------

    def _take(self, fields: dict[bytes, bytes], version: str) -> None:
        parser = self.parser
        method = parser.get_method()
        route = self._frontend.route(self.url) if method == b"POST" else None
        if route is None:
            if method == b"CONNECT":
                self.cycle = GONE
                self._refuse(405, "this is not a proxy")
            else:
                most = self._endpoint.max_body_bytes if _LOADS.match(self.url) else MAX_PLAIN_BODY
                self._plain_body = most + 1 if method in _WITH_BODY else 0
                self._give_to_asgi()
            return
        keep_alive = parser.should_keep_alive() and version != "1.0"
        connection: Any = self  # `queue_response` and `write_response` are in `InferConnection`
        model, number, verb = route
        exchange = Exchange(connection, model, number, fields, keep_alive=keep_alive, expects=self.expect_100_continue)
        exchange.verb = verb
        exchange.head_bytes = self._head_bytes
        previous, self.cycle = self.cycle, exchange  # it has the attributes that the base class reads
        if previous is None or previous.response_complete:
            self._start_asgi_task(exchange, self.app)  # type: ignore[arg-type]
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))

    def _give_to_asgi(self) -> None:
        """Replay the request to uvicorn's own methods from its start."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = expects
        super().on_headers_complete()
        self.cycle.head_bytes = self._head_bytes

    # --- what is kept -------------------------------------------------------------------------------------------------

    def _count(self) -> None:
        """Count the bytes that this connection keeps beyond one read."""
        held = self._dry if self._in_head else 0
        active = self._active
        if active is not None:
            held += active.head_bytes
            if type(active) is not Exchange:
                held += len(active.body)
            elif not active.complete and not active.answered and len(active.body) > active.reserved:
                self._frontend.grow(active)
        if self.pipeline:
            held += len(self._rest) + sum([REQUEST_BYTES + _size(cycle) for cycle, _ in self.pipeline])
        if not self._share.hold(held if held > UNCOUNTED else 0):
            if self.pipeline:  # none of them was started: free them
                self.pipeline.clear()
                self.cycle = GONE
            self._refuse(503, "this gateway reads too many requests at once; try again later")

    def _refuse(self, status: int, message: str) -> None:
        """Answer a malformed request in its turn, and end the connection."""
        raise NotImplementedError


def _size(cycle: Any) -> int:
    """Bytes of a pipelined request."""
    headers: Iterable[tuple[bytes, bytes]]
    if type(cycle) is Exchange:
        headers = cycle.fields.items()
    elif isinstance(cycle, RequestResponseCycle):
        headers = cycle.scope["headers"]
    else:
        return len(cycle.body)
    return len(cycle.body) + sum([len(name) + len(value) for name, value in headers])


class _Gone:
    """Stands in for a request on a connection that is being closed; keeps nothing."""

    response_complete = True
    complete = True
    more_body = False
    disconnected = True
    keep_alive = False
    body = b""

    def __init__(self) -> None:
        self.message_event = asyncio.Event()


GONE: Any = _Gone()
