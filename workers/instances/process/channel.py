"""Messages between a worker and one of its children: framed msgpack over a socket pair, with file descriptors where one is needed.

Invariants: a stream keeps no bounds of messages, so each has its length in front and exactly so much is read: several that arrive
together are received one by one. Descriptors come with the first bytes of their message; nothing is unpickled.
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
"""Bytes; what claims more comes from a process that has lost its senses."""
MAX_DESCRIPTORS: Final = 2

_LENGTH: Final = struct.Struct(">I")
_CHUNK: Final = 256 * 1024


class Broken(Exception):
    """The other side is gone, or what it sent is no message."""


def packed(message: object) -> bytes:
    """A message as it is sent. Text that is not Unicode, of an exception for example, is escaped.

    Raises:
        TypeError, ValueError: there is something in it that no message can hold.
    """
    data: bytes = msgpack.packb(message, unicode_errors="backslashreplace")
    return data


class Line:
    """One end of the pair. Only one thread sends and receives; `hang_up` may be called from any."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def send(self, payload: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send what `packed` made.

        Raises:
            Broken: nobody listens.
        """
        data = memoryview(frame(payload))
        try:
            if descriptors:
                data = data[socket.send_fds(self._socket, [data], list(descriptors)) :]
            self._socket.sendall(data)
        except OSError as exc:
            raise Broken(str(exc)) from None

    def receive(self) -> tuple[Any, list[int]]:
        """Wait for the next message; its descriptors belong to the caller.

        Raises:
            Broken: the other side has hung up, or what came is no message.
        """
        descriptors: list[int] = []
        try:
            head, descriptors, _, _ = socket.recv_fds(self._socket, _LENGTH.size, MAX_DESCRIPTORS)
            if len(head) < _LENGTH.size:
                head += self._exactly(_LENGTH.size - len(head)) if head else self._some(1)
            (size,) = _LENGTH.unpack(head)
            if size > MAX_MESSAGE:
                raise Broken(f"a message of {size} bytes; at most {MAX_MESSAGE} are allowed")
            return msgpack.unpackb(self._exactly(size), strict_map_key=False), descriptors
        except BaseException as exc:
            for descriptor in descriptors:
                os.close(descriptor)
            if isinstance(exc, OSError | ValueError | msgpack.exceptions.UnpackException):
                raise Broken(str(exc)) from None
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
            raise Broken("the other side has hung up")
        return data

    def hang_up(self) -> None:
        """End what either side waits for; what has arrived can still be received."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def close(self) -> None:
        """Free the descriptor."""
        self._socket.close()
