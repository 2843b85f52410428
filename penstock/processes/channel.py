"""The channel between the parent and one of its acceptor processes: a Unix socket pair that the child inherits.

A message is a frame of msgpack: a kind, and a value. Both ends are ours: a frame that cannot be read is a bug and ends the channel.

What a child publishes reaches all other children through the parent, which keeps the newest value of each key for children that
start later.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final, cast

import structlog

from protocol.frames import pack, unpack
from workers.system.framing import frame, frames

MAX_KEYS: Final = 4096
"""Keys that the parent keeps; another is refused."""
MAX_VALUE: Final = 256 * 1024
"""Bytes of a published value."""

_log = structlog.get_logger(__name__)


class Channel(asyncio.Protocol):
    """One end of the channel.

    Args:
        on_message: gets each message's kind and value.
        on_closed: called once when the other end is gone.
    """

    def __init__(self, on_message: Callable[[str, Any], None], on_closed: Callable[[], None] = lambda: None) -> None:
        self._on_message = on_message
        self._on_closed = on_closed
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._closed = asyncio.Event()

    async def open(self, end: socket.socket) -> None:
        """Use this end, which belongs to the channel from now on."""
        end.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: self, sock=end)

    def send(self, kind: str, value: object = None) -> None:
        """Send a message; nothing happens once the other end is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame(pack((kind, value))))

    def close(self) -> None:
        """Close this end, once everything is sent."""
        self._on_closed = lambda: None
        if self._transport is not None:
            self._transport.close()

    async def wait_closed(self, seconds: float) -> None:
        """Wait until everything that the other end sent before its end has been read."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._buffer += data
        for each in frames(self._buffer):
            kind, value = unpack(each)
            self._on_message(kind, value)

    def connection_lost(self, _: Exception | None) -> None:
        """Called by the event loop."""
        self._closed.set()
        self._on_closed()


class ProcessChannel:
    """What a child uses to tell all other children of its gateway something."""

    def __init__(self, send: Callable[[str, object], None]) -> None:
        self._send = send
        self._kept = Kept()
        self._calls: list[Callable[[str, bytes], None]] = []

    def on_message(self, call: Callable[[str, bytes], None]) -> None:
        """Call back with each key and value that another child publishes, and first with those known now; b"" removes the key."""
        self._calls.append(call)
        for key, value in list(self._kept.values.items()):
            call(key, value)

    def publish(self, key: str, value: bytes) -> None:
        """Tell all other children; returns at once. Values of one key arrive in their order.

        Args:
            key: what it is about: the newest value of a key replaces older ones.
            value: at most `MAX_VALUE` bytes; b"" removes the key.

        Raises:
            ValueError: the value is too large.
        """
        if len(value) > MAX_VALUE:
            raise ValueError(f"a published value has {len(value)} bytes; at most {MAX_VALUE} are allowed")
        self._send("published", (key, value))

    def received(self, key: str, value: bytes) -> None:
        """Pass on what another child published."""
        if self._kept.take(key, value):
            for call in self._calls:
                call(key, value)


class Kept:
    """The newest value of each key, in the parent."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def take(self, key: str, value: bytes) -> bool:
        """Keep a value; False if there are too many keys."""
        if not value:
            self.values.pop(key, None)
        elif key in self.values or len(self.values) < MAX_KEYS:
            self.values[key] = value
        else:
            _log.warning(
                "the processes of this gateway share too many values; one was refused", key=key, limit=MAX_KEYS
            )
            return False
        return True
