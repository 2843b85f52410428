"""A TCP proxy between one process of the fleet and a server; it can be slow or cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Final

CHUNK: Final = 64 * 1024
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """Passes bytes on in both directions.

    Attributes:
        delay: seconds by which every piece is delayed, each way.
        cut: new connections are closed at once.
        port: the loopback port that it listens on.
    """

    def __init__(self, host: str, port: int) -> None:
        self.delay = 0.0
        self.cut = False
        self.port = 0
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and drop all connections."""
        if self._server is not None:
            self._server.close()
        self.drop()
        if self._serving:
            await asyncio.wait(self._serving)

    def drop(self) -> None:
        """Abort all connections, as when a network fails."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._join(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = {writer}
        try:
            if self.cut:
                return
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            pair.add(far_writer)
            self._writers |= pair
            await self._both_ways((reader, writer), (far_reader, far_writer))
        except OSError:
            pass  # the server is unreachable, and the connection ends with it
        finally:
            self._writers -= pair
            for end in pair:
                end.transport.abort()
            await asyncio.sleep(0)  # the loop closes aborted connections in its next iteration

    async def _both_ways(self, near: Ends, far: Ends) -> None:
        await asyncio.gather(
            self._until_it_ends(self._pass_on(near[0], far[1]), far[1]),
            self._until_it_ends(self._pass_on(far[0], near[1]), near[1]),
        )

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await self._write(writer, data)

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if self.delay:
            await asyncio.sleep(self.delay)
        writer.write(data)
        await writer.drain()

    @staticmethod
    async def _until_it_ends(passing: Coroutine[None, None, None], writer: asyncio.StreamWriter) -> None:
        """Pass bytes in one direction; when that ends, so does the other."""
        with contextlib.suppress(OSError, EOFError, ValueError):
            await passing
        with contextlib.suppress(OSError):
            writer.transport.abort()
