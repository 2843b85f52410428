"""An attacker's connection: sends raw bytes, keeps the answers in order."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable
from typing import cast

import httptools


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """One answer.

    Attributes:
        status: its number.
        headers: by lower-case name.
        body: without its framing.
    """

    status: int
    headers: dict[str, str]
    body: bytes


class RawConnection(asyncio.Protocol):
    """One connection.

    Attributes:
        replies: the answers so far, in order.
        lost: done once the connection is.
    """

    def __init__(self, deaf: bool) -> None:
        self.replies: list[Reply] = []
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._deaf = deaf
        self._arrived = asyncio.Event()
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not registered as such
        if self._deaf:
            self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which calls the methods below."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more will come."""
        self._arrived.set()
        if not self.lost.done():
            self.lost.set_result(None)

    def on_message_begin(self) -> None:
        """A new answer begins."""
        self._headers, self._body = {}, []

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of it."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """It is complete."""
        self.replies.append(Reply(self._parser.get_status_code(), self._headers, b"".join(self._body)))
        self._arrived.set()

    def write(self, data: bytes) -> None:
        """Send it."""
        self._transport.write(data)

    async def until(self, count: int, seconds: float) -> bool:
        """Wait for `count` answers in all, or the end of the connection; whether they came in time."""
        try:
            async with asyncio.timeout(seconds):
                while len(self.replies) < count and not self.lost.done():
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            pass
        return len(self.replies) >= count

    def leave(self) -> None:
        """End the connection at once."""
        self._transport.abort()


async def connect(port: int, *, deaf: bool = False) -> RawConnection:
    """A connection to a server on loopback; a deaf one never reads.

    Raises:
        OSError: the connection is refused.
    """
    _, line = await asyncio.get_running_loop().create_connection(lambda: RawConnection(deaf), "127.0.0.1", port)
    return line


async def ask(port: int, data: bytes, count: int = 1, seconds: float = 30.0) -> list[Reply]:
    """Send on a connection of its own; waits for `count` answers and returns all that arrived.

    Raises:
        OSError: the connection is refused.
    """
    line = await connect(port)
    try:
        line.write(data)
        await line.until(count, seconds)
        return line.replies
    finally:
        line.leave()


def request(
    method: str, path: str, headers: Iterable[str] = (), body: bytes | None = None, version: str = "1.1"
) -> bytes:
    """A whole request; with a body, its Content-Length."""
    lines = [f"{method} {path} HTTP/{version}", "Host: 127.0.0.1", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def in_chunks(body: bytes, trailers: bytes = b"") -> bytes:
    """A body in one chunk, with the bytes that follow the last chunk."""
    return b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailers)
