"""Messages between a worker, its fork servers and its children: framed msgpack over a socket pair, with file descriptors.

Invariants: each message has its length in front, and exactly that many bytes are read, so messages that arrive together are
received one by one. Descriptors come with the first bytes of their message. Nothing is unpickled.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from typing import Any, Final

import msgpack

from workers.system.framing import frame

MAX_MESSAGE: Final = 256 * 1024 * 1024
"""Bytes; a process that announces more is faulty."""
MAX_DESCRIPTORS: Final = 2

_LENGTH: Final = struct.Struct(">I")
_CHUNK: Final = 256 * 1024


class ChannelBroken(Exception):
    """The peer is gone, or sent something that is not a message."""


def encode_message(message: object) -> bytes:
    """The message as `Channel.send_message` takes it. Text that is not Unicode, in an exception for example, is escaped.

    Raises:
        TypeError, ValueError: msgpack cannot hold a part of it.
    """
    data: bytes = msgpack.packb(message, unicode_errors="backslashreplace")
    return data


class Channel:
    """One end of the socket pair. Only one thread sends and receives; `shut_down` may be called from any."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def send_message(self, payload: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send an encoded message.

        Raises:
            ChannelBroken: the peer is gone.
        """
        data = memoryview(frame(payload))
        try:
            if descriptors:
                data = data[socket.send_fds(self._socket, [data], list(descriptors)) :]
            self._socket.sendall(data)
        except OSError as exc:
            raise ChannelBroken(str(exc)) from None

    def receive_message(self) -> tuple[Any, list[int]]:
        """Wait for the next message; its descriptors belong to the caller.

        Raises:
            ChannelBroken: the peer has closed its end, or sent something that is not a message.
        """
        descriptors: list[int] = []
        try:
            head, descriptors, _, _ = socket.recv_fds(self._socket, _LENGTH.size, MAX_DESCRIPTORS)
            if len(head) < _LENGTH.size:
                head += self._exactly(_LENGTH.size - len(head)) if head else self._some(1)
            (size,) = _LENGTH.unpack(head)
            if size > MAX_MESSAGE:
                raise ChannelBroken(f"a message of {size} bytes; at most {MAX_MESSAGE} are allowed")
            return msgpack.unpackb(self._exactly(size), strict_map_key=False), descriptors
        except BaseException as exc:
            for descriptor in descriptors:
                os.close(descriptor)
            if isinstance(exc, OSError | ValueError | msgpack.exceptions.UnpackException):
                raise ChannelBroken(str(exc)) from None
            raise

    def _exactly(self, size: int) -> bytes | bytearray:
        data = self._some(size)
        if len(data) == size:
            return data
        whole = bytearray(data)
        while len(whole) < size:
            whole += self._some(size - len(whole))
        return whole

    def _some(self, limit: int) -> bytes:
        data = self._socket.recv(min(limit, _CHUNK))
        if not data:
            raise ChannelBroken("the other process has closed the channel")
        return data

    def shut_down(self) -> None:
        """Wake up both sides if they wait; what has arrived can still be received."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def close(self) -> None:
        """Free the descriptor."""
        self._socket.close()
