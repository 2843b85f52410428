"""A caller knows whether its answer came, the connection broke, or nothing came at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from penstock.verify.observe.http import Caller, ConnectionLost, NoAnswer

ANSWER = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\nLocation: /v2/x\r\n\r\nok"
CHUNKED = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{"\r\n4\r\na":1\r\n1\r\n}\r\n0\r\n\r\n'


@contextlib.asynccontextmanager
async def served(*answers: bytes, timeout: float = 5.0) -> AsyncIterator[tuple[Caller, list[bytes]]]:
    """A caller of a server that sends these, one after the other, on every connection; "" for silence; then it disconnects."""
    asked: list[bytes] = []
    connections: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        for answer in answers:
            asked.append(await reader.readuntil(b"!"))
            writer.write(answer)
        if answers[-1]:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    caller = Caller(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout)
    try:
        yield caller, asked
    finally:
        await caller.close()
        for writer in connections:
            writer.transport.abort()
        server.close()
        await asyncio.sleep(0)


async def test_answers_come_on_one_connection() -> None:
    async with served(ANSWER, CHUNKED) as (caller, asked):
        first = await caller.request("POST", "/v2/m", {"Prefer": "respond-async"}, b"body!")
        second = await caller.request("POST", "/v2/m", {}, b"!")

    assert (first.status, first.headers["location"], first.body) == (202, "/v2/x", b"ok")
    assert second.json() == {"a": 1}
    assert asked[0].startswith(b"POST /v2/m HTTP/1.1\r\n")
    assert b"Content-Length: 5\r\nPrefer: respond-async\r\n\r\nbody!" in asked[0]


async def test_an_answer_that_ends_too_soon_is_none() -> None:
    async with served(ANSWER[:-1]) as (caller, _):
        with pytest.raises(ConnectionLost):
            await caller.request("POST", "/", {}, b"!")


async def test_nobody_listens() -> None:
    async with served(ANSWER) as (caller, _):
        pass
    with pytest.raises(ConnectionLost):
        await caller.request("POST", "/", {}, b"!")


async def test_silence_differs_from_a_broken_connection() -> None:
    async with served(b"", timeout=0.05) as (caller, _):
        with pytest.raises(NoAnswer):
            await caller.request("POST", "/", {}, b"!")
