"""A gateway as seen from a socket."""

from __future__ import annotations

import asyncio
import contextlib

import orjson

from tests.gateway.fleet import Answered, Running, add_sub, read_response

BODY = orjson.dumps(add_sub())


async def exchange(gateway: Running, sent: bytes) -> Answered:
    """The first response to these bytes, on a connection of its own."""
    reader, writer = await gateway.connect()
    writer.write(sent)
    try:
        return await asyncio.wait_for(read_response(reader), 10)
    finally:
        writer.close()


async def closed(reader: asyncio.StreamReader) -> bytes:
    """The bytes received until the gateway closes the connection."""
    rest = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(10):
            while piece := await reader.read(65536):
                rest += piece
    return rest
