"""A request over aiokafka's connection that is written at once, and answered in the turn of the event loop in which its response
arrives. Like `aiokafka_internals`, this module may use aiokafka's private names.

aiokafka passes a request and its response through four to six tasks and futures; each is a turn of the loop with its own system
call, and together they are most of what a lone record costs (decision 12).
"""

from __future__ import annotations

import asyncio
import io
import logging
import weakref
from typing import Any, Final

from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.errors import KafkaConnectionError

from protocol.transport.kafka import wire

__all__ = ["Answered", "Exchange", "open_connection"]

log = logging.getLogger(__name__)

_LENGTH: Final = 4


class Frames(asyncio.Protocol):
    """Cuts responses out of a connection's bytes, in place of aiokafka's stream and task. All else still goes to its protocol."""

    def __init__(self, connection: Any, before: Any) -> None:
        self._connection = weakref.ref(connection)  # as in aiokafka's task: a lost connection can be collected
        self._before = before
        self._parts: list[bytes] = []
        self._missing = 0

    def data_received(self, data: bytes) -> None:
        """Handle every response that is complete."""
        if self._missing > len(data):
            self._parts.append(data)
            self._missing -= len(data)
            return
        if self._parts:
            data = b"".join((*self._parts, data))
            self._parts.clear()
        connection = self._connection()
        try:
            rest = self._handle_all(connection, data)
        except Exception as exc:  # nothing would read further
            log.exception("a response of Kafka's cannot be read")
            if connection is not None:
                connection.close(reason=CloseReason.CONNECTION_BROKEN, exc=exc)
            return
        self._missing = 0
        if rest:
            self._parts.append(rest)
            left = _LENGTH - len(rest)
            self._missing = left if left > 0 else left + int.from_bytes(rest[:_LENGTH], signed=True)

    def _handle_all(self, connection: Any, data: bytes) -> bytes:
        """What remains."""
        at, size = 0, len(data)
        while size - at >= _LENGTH and connection is not None and connection.connected():
            begin = at + _LENGTH
            length = int.from_bytes(data[at:begin], signed=True)
            if length < 0:
                raise ValueError(f"a response of {length} bytes")
            if begin + length > size:
                break
            connection._handle_frame(data[begin : begin + length])
            at = begin + length
        return data[at:]

    def eof_received(self) -> bool | None:
        """See `asyncio.Protocol`."""
        ended: bool | None = self._before.eof_received()
        return ended

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._before.connection_lost(exc)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._before.pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._before.resume_writing()


def open_connection(client: AIOKafkaClient, node: int | None, kind: tuple[int, int]) -> Any:
    """The node's connection, if it is open, speaks this version, and its responses can be cut by `Frames`; else None."""
    connection = client._conns.get((node, ConnectionGroup.DEFAULT))
    if connection is None or not connection.connected():
        return None
    key, version = kind
    oldest, newest = connection._versions.get(key, (0, 0))
    if not oldest <= version <= newest:
        return None
    transport = connection._writer.transport
    before = transport.get_protocol()
    if type(before) is not Frames:
        if connection._requests:
            return None  # a part of a response may be in aiokafka's stream
        transport.set_protocol(Frames(connection, before))
    return connection


class Exchange:
    """A request and its response. It stands for both aiokafka's request and the future in its connection's queue."""

    def __init__(self) -> None:
        self.RESPONSE_TYPE = self
        self.correlation_id = 0
        self._is_over = False
        self._watch: asyncio.TimerHandle | None = None

    def send(self, connection: Any, kind: tuple[int, int], body: bytes) -> None:
        """Write the request. Without a response in time the connection is closed, as by aiokafka."""
        self._is_over = False
        correlation = connection._next_correlation_id()
        connection._writer.write(wire.request(kind, correlation, connection._client_id.encode(), body))
        connection._requests.append((correlation, self, self))
        self._watch = connection._loop.call_later(connection._request_timeout, _expire, connection)

    def parse_response_header(self, response: io.BytesIO) -> Exchange:
        """For aiokafka, which compares `correlation_id`."""
        self.correlation_id = int.from_bytes(response.read(4))
        return self

    def decode(self, response: io.BytesIO) -> bytes:
        """The response's body."""
        return response.read()

    def done(self) -> bool:
        """Whether the response or an error is here."""
        return self._is_over

    def set_result(self, body: bytes) -> None:
        """The response is here. One that cannot be read closes the connection."""
        self._end()
        try:
            self.on_response(body)
        except Exception as exc:
            self.on_error(KafkaConnectionError(f"a response cannot be read: {exc!r}"))
            raise

    def set_exception(self, error: BaseException) -> None:
        """The connection is closed."""
        self._end()
        self.on_error(error)

    def _end(self) -> None:
        self._is_over = True
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def on_response(self, body: bytes) -> None:
        """Called with the response, without its header."""
        raise NotImplementedError

    def on_error(self, error: BaseException) -> None:
        """Called if the connection was lost, or the response cannot be read."""
        raise NotImplementedError


def _expire(connection: Any) -> None:
    connection.close(reason=CloseReason.CONNECTION_TIMEOUT)


class Answered:
    """A client that has its answer: lets aiokafka's code continue with a response, or an error, that came here."""

    def __init__(self, client: AIOKafkaClient, kind: Any, outcome: bytes | BaseException) -> None:
        self._client = client
        self._kind = kind
        self._outcome = outcome

    async def send(self, *_: Any, **__: Any) -> Any:
        """The answer."""
        if isinstance(self._outcome, bytes):
            return self._kind.decode(io.BytesIO(self._outcome))
        raise self._outcome

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)
