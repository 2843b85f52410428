"""One infer request and its response, between a connection and the frontend that takes it."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from gateway.admission.budget import Budgets
from gateway.calls.pending import Call
from gateway.rest.bodies import Binary
from gateway.rest.extras import Extras
from gateway.rest.framing import Hosts
from gateway.rest.heads import Heads
from gateway.rest.origins import Origins
from gateway.rest.routing import INFER
from gateway.rest.turn import Turn
from gateway.rest.unread import Unread
from protocol.messages import ANONYMOUS
from protocol.tensors import Buffer

_ALIGNED: Final = 16
"""Bytes; NumPy's memory begins at a multiple of it."""


class Connection(Protocol):
    """The connection that an exchange is on."""

    def queue_response(
        self, exchange: Exchange, status: int, head: bytes, parts: Sequence[Buffer], *, close: bool
    ) -> None:
        """Queue an exchange's response; it is written in its turn."""

    def write_response(self, response: QueuedResponse) -> None:
        """Write a queued response."""


class Exchange:
    """One infer request and its response on a connection; uvicorn's term is cycle.

    Attributes:
        model, version: from the URL; version may be "".
        verb: from the URL: infer, generate or generate_stream.
        fields: headers by lower-case name; the last one of each name.
        body: the part read so far; a large one of known size is a view of memory for all of it.
        filled: bytes read into such a view.
        complete: whether the whole request was read.
        started: whether it has its turn on the connection.
        answered: whether its response was queued.
        response_complete: whether its response was written.
        disconnected: whether the client has gone.
        id: its fleet id, "" until it has one.
        accepted: when the whole request was read, on the fleet's clock.
        early: its response, if it was answered before its turn.
        until: its deadline, `math.inf` for none.
        work: task that handles its body off the event loop; cancelled when the client goes.
        head_bytes: size of the head, if large enough to be counted.
        call: the waiting call, None before and after.
        binary: outputs that the caller wants as raw bytes.
        extras: what else becomes of the outputs; None for nothing.
        reserved: bytes that admission holds for the body.
    """

    __slots__ = (
        "accepted", "answered", "binary", "body", "call", "complete", "connection", "disconnected", "early",
        "expects", "extras", "fields", "filled", "head_bytes", "id", "keep_alive", "model", "principal", "reserved",
        "response_complete", "started", "until", "verb", "version", "work",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        model: str,
        version: str,
        fields: Mapping[bytes, bytes],
        *,
        keep_alive: bool,
        expects: bool,
    ) -> None:
        self.connection = connection
        self.model = model
        self.version = version
        self.verb = INFER
        self.fields = fields
        self.keep_alive = keep_alive
        self.expects = expects
        self.body: bytes | bytearray | memoryview = b""
        self.filled = 0
        self.complete = False
        self.started = False
        self.answered = False
        self.response_complete = False
        self.disconnected = False
        self.id = ""
        self.principal = ANONYMOUS
        self.accepted = 0.0
        self.call: Call | None = None
        self.binary: Binary = False
        self.extras: Extras | None = None
        self.reserved = 0
        self.head_bytes = 0
        self.early: QueuedResponse | None = None
        self.until = math.inf
        self.work: asyncio.Future[Any] | None = None

    def expect(self, size: int) -> None:
        """Make room for a body of this size, which is counted; its pieces then need no further memory.

        What follows the JSON begins at a multiple of `_ALIGNED`: a model that needs its input so then reads it in place.
        """
        text = self.fields.get(b"inference-header-content-length", b"")
        start = -int(text) % _ALIGNED if text.isdigit() and len(text) < 12 else 0
        memory = memoryview(np.empty(start + size, np.uint8))  # type: ignore[arg-type]  # ndarray is a buffer
        held, self.body = self.body, memory[start:]
        self.filled = 0
        if held:
            self.add(held)

    def add(self, piece: Buffer | bytearray) -> None:
        """Append a piece of the body."""
        held = self.body
        if type(held) is memoryview:
            start = self.filled
            self.filled = end = start + len(piece)
            held[start:end] = piece
        elif not held:
            self.body = bytes(piece)
        elif type(held) is bytearray:
            held += piece
        else:
            self.body = bytearray(held)
            self.body += piece

    def respond(self, status: int, head: bytes, parts: Sequence[Buffer], *, close: bool = False) -> None:
        """Queue the whole response, once; does nothing if the client has gone.

        Args:
            status: HTTP status.
            head: header lines, each with its CRLF, without date, length and connection.
            parts: the body.
            close: whether the connection ends after it.
        """
        if self.answered or self.disconnected:
            return
        self.answered = True
        self.connection.queue_response(self, status, head, parts, close=close)


class Frontend(Protocol):
    """Takes infer requests."""

    def route(self, url: bytes) -> tuple[str, str, str] | None:
        """(model, version, verb) of the URL of a call, None for any other."""

    def begin(self, exchange: Exchange) -> None:
        """The headers were read, and the exchange has its turn; may answer at once."""

    def grow(self, exchange: Exchange) -> None:
        """More of a large body was read; may answer at once."""

    def handle(self, exchange: Exchange) -> None:
        """The whole request was read; answer now or later."""

    def lost(self, exchange: Exchange) -> None:
        """The client has gone, or the rest of the request is malformed: the frontend must not answer."""


class QueuedResponse(NamedTuple):
    """A response that waits to be written.

    Attributes:
        parts: its bytes, head included.
        close: whether the connection ends after it.
    """

    exchange: Exchange
    parts: Sequence[Buffer]
    close: bool

    def write(self) -> None:
        """Write it to its connection."""
        self.exchange.connection.write_response(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """The objects that all connections of a server share.

    Attributes:
        frontend: takes infer requests.
        max_header_bytes: of request line and headers.
        max_connections: open at once.
        closed: called when a connection has ended.
        outgoing: responses to write at the end of this turn.
        budgets: of bytes held.
        unread: bytes in write buffers, by connection.
        refused: called with the error code of each malformed request.
        hosts: allowed `Host` and `Origin`; None if an API key is configured.
        heads: of infer requests that were checked before.
        max_body_bytes: of a request that infers or loads a model.
        origins: whose pages may read answers; None for none but the gateway's own.
    """

    frontend: Frontend
    max_header_bytes: int
    max_connections: int
    closed: Callable[[], None]
    outgoing: Turn[QueuedResponse]
    budgets: Budgets
    unread: Unread[asyncio.Transport]
    refused: Callable[[str], None]
    hosts: Hosts | None
    heads: Heads
    max_body_bytes: int
    origins: Origins | None = None
