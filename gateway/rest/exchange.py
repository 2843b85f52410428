"""One infer request and its response, between a connection and the frontend that takes it."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from gateway.admission.budget import Budgets
from gateway.calls.pending import Call
from gateway.rest.bodies import Binary
from gateway.rest.framing import Hosts
from gateway.rest.turn import Turn
from gateway.rest.unread import Unread
from protocol.messages import ANONYMOUS
from protocol.tensors import Buffer


class Connection(Protocol):
    """The connection that an exchange is on."""

    def queue_response(
        self, exchange: Exchange, status: int, head: bytes, parts: Sequence[Buffer], *, close: bool
    ) -> None:
        """Send an exchange's response, and let the next request have its turn after it."""

    def write_response(self, response: QueuedResponse) -> None:
        """Write what `queue_response` sent."""


class Exchange:
    """One infer request and its response on a connection; what uvicorn calls a cycle.

    Attributes:
        model, version: of the URL; version is "" where it names none.
        fields: headers by lower-case name; of repeated ones the last.
        body: what was read of it.
        complete: all of the request was read.
        started: it is its turn on this connection.
        answered: its response is on the way out.
        response_complete: its response was written.
        disconnected: the client has gone.
        id: its fleet id, "" until it has one.
        accepted: when all of it was read, on the fleet's clock.
        early: its response, where it was answered before its turn.
        until: its deadline, `math.inf` where it has none.
        work: what is done with its body beside the event loop, which ends when the client goes.
        head_bytes: of a head that is large enough to be counted.
        call: the waiting call, None before and after.
        binary: which outputs its caller wants as raw bytes.
        reserved: bytes that admission holds for its body.
    """

    __slots__ = (
        "accepted", "answered", "binary", "body", "call", "complete", "connection", "disconnected", "early",
        "expects", "fields", "head_bytes", "id", "keep_alive", "model", "principal", "reserved", "response_complete", "started",
        "until", "version", "work",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        model: str,
        version: str,
        fields: dict[bytes, bytes],
        *,
        keep_alive: bool,
        expects: bool,
    ) -> None:
        self.connection = connection
        self.model = model
        self.version = version
        self.fields = fields
        self.keep_alive = keep_alive
        self.expects = expects
        self.body: bytes | bytearray = b""
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
        self.reserved = 0
        self.head_bytes = 0
        self.early: QueuedResponse | None = None
        self.until = math.inf
        self.work: asyncio.Future[Any] | None = None

    def add(self, piece: bytes) -> None:
        """More of the body was read."""
        held = self.body
        if not held:
            self.body = piece
        elif type(held) is bytearray:
            held += piece
        else:
            self.body = bytearray(held)
            self.body += piece

    def respond(self, status: int, head: bytes, parts: Sequence[Buffer], *, close: bool = False) -> None:
        """Write the whole response, once; nothing happens where the client has gone.

        Args:
            status: HTTP status.
            head: header lines, each with its CRLF, without date, length and connection.
            parts: the body.
            close: end the connection after it.
        """
        if self.answered or self.disconnected:
            return
        self.answered = True
        self.connection.queue_response(self, status, head, parts, close=close)


class Frontend(Protocol):
    """Who takes infer requests."""

    def route(self, url: bytes) -> tuple[str, str] | None:
        """(model, version) of an infer URL, None for any other."""

    def begin(self, exchange: Exchange) -> None:
        """The headers are there and it is its turn; may answer at once."""

    def grow(self, exchange: Exchange) -> None:
        """More of a large body was read; may answer at once."""

    def handle(self, exchange: Exchange) -> None:
        """All of the request is there; answer now or later."""

    def lost(self, exchange: Exchange) -> None:
        """It will not be answered by the frontend: the client has gone, or the rest of the request is not HTTP."""


class QueuedResponse(NamedTuple):
    """What is to be written for an exchange.

    Attributes:
        parts: the bytes, in one piece where they are few.
        close: the connection ends after it.
    """

    exchange: Exchange
    parts: Sequence[Buffer]
    close: bool

    def write(self) -> None:
        """Write it to its connection."""
        self.exchange.connection.write_response(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """What all connections of a server share.

    Attributes:
        frontend: who takes infer requests.
        max_header_bytes: of request line and headers.
        max_connections: open at once.
        closed: told of every connection that has ended.
        outgoing: responses on their way to their sockets.
        budgets: what connections may hold together.
        unread: answers that wait in write buffers.
        refused: told the error's name of everything that could not be read as a request.
        hosts: who may be meant and whose pages may call; None where everybody shows a key.
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
