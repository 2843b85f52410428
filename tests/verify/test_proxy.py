"""The proxy passes bytes on, late where it should, and not at all where it is cut."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from penstock.verify.fleet.processes import ServerAddresses
from penstock.verify.fleet.proxy import Proxy
from protocol.errors import ConfigError

ECHOES: set[asyncio.Task[None]] = set()


def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    task = asyncio.get_running_loop().create_task(answer(reader, writer))
    ECHOES.add(task)
    task.add_done_callback(ECHOES.discard)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1000):
            writer.write(data)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def before_an_echo() -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = Proxy("127.0.0.1", server.sockets[0].getsockname()[1])
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()
        if ECHOES:
            await asyncio.wait(ECHOES)
        server.close()


@contextlib.asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def said(reader: asyncio.StreamReader) -> bytes:
    """What comes; nothing where the connection is reset or ends."""
    try:
        return await reader.read(5)
    except ConnectionError:
        return b""


async def ask(proxy: Proxy) -> bytes:
    async with connected(proxy) as (reader, writer):
        writer.write(b"hello")
        return await said(reader)


async def test_it_is_late_then_cut_and_then_itself_again() -> None:
    async with before_an_echo() as proxy:
        assert await ask(proxy) == b"hello"

        proxy.delay = 0.05
        begun = time.monotonic()
        assert await ask(proxy) == b"hello"
        assert time.monotonic() - begun >= 0.1

        proxy.delay, proxy.cut = 0.0, True
        assert await ask(proxy) == b""

        proxy.cut = False
        assert await ask(proxy) == b"hello"


async def test_connections_that_stand_are_dropped() -> None:
    async with before_an_echo() as proxy, connected(proxy) as (reader, writer):
        writer.write(b"hello")
        assert await said(reader) == b"hello"

        proxy.drop()

        assert await said(reader) == b""


def test_the_redis_url_leads_through_the_proxy() -> None:
    backing = ServerAddresses("redis://user:secret@store:6390/2", "b:9092", False, ())

    assert backing.target() == ("store", 6390)
    assert backing.through(7000) == "redis://user:secret@127.0.0.1:7000/2"
    assert ServerAddresses("rediss://store/0", "b:9092", False, ()).target() is None
    with pytest.raises(ConfigError):
        ServerAddresses("http://store", "b:9092", False, ()).target()


def test_brokers_behind_tls_have_no_proxies() -> None:
    assert ServerAddresses("redis://r", "one:9092, [::1]:9093", False, ()).brokers() == [("one", 9092), ("::1", 9093)]
    assert ServerAddresses("redis://r", "one:9092", True, ()).brokers() is None
    with pytest.raises(ConfigError):
        ServerAddresses("redis://r", "one", False, ()).brokers()
