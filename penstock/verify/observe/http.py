"""A minimal HTTP/1.1 client: the checker shares its machine with the fleet, and must use little of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

CONNECT_WITHIN: Final = 10.0
_LIMIT: Final = 256 * 1024


class ConnectionLost(Exception):
    """The connection failed or broke, so the result is unknown."""


class NoAnswer(Exception):
    """The connection held, but no answer came in time."""


class Response:
    """An answer; header names are in lower case."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        """The body. Raises `ValueError` if it is not JSON."""
        return orjson.loads(self.body)


class Caller:
    """Keep-alive connections to one server.

    Args:
        url: `http://HOST:PORT`.
        timeout: seconds that an answer may take.
    """

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._timeout = timeout
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Response:
        """One call.

        Raises:
            ConnectionLost: the connection broke.
            NoAnswer: no answer came in time.
        """
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}:{self._port}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        connection = reader, writer = await self._connection()
        try:
            writer.write(head + body)
            async with asyncio.timeout(self._timeout):
                await writer.drain()
                response = await _read(reader)
        except TimeoutError as error:
            writer.transport.abort()
            raise NoAnswer(f"no answer within {self._timeout:.0f} s") from error
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            writer.transport.abort()
            raise ConnectionLost(repr(error)) from error
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        if response.headers.get("connection", "").lower() == "close":
            writer.transport.abort()
        else:
            self._idle.append(connection)
        return response

    async def close(self) -> None:
        """Close idle connections."""
        for _, writer in self._idle:
            writer.transport.abort()
        self._idle.clear()
        await asyncio.sleep(0)

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.transport.abort()
        try:
            async with asyncio.timeout(CONNECT_WITHIN):
                return await asyncio.open_connection(self._host, self._port, limit=_LIMIT)
        except OSError as error:  # TimeoutError is one too
            raise ConnectionLost(repr(error)) from error


async def _read(reader: asyncio.StreamReader) -> Response:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ", 2)[1])
    pairs = (line.partition(":") for line in lines[1:] if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Response(status, headers, await _chunks(reader))
    return Response(status, headers, await reader.readexactly(int(headers.get("content-length", 0))))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return body
