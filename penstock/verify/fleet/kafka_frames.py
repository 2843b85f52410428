"""The part of Kafka's protocol that a proxy needs: which reply belongs to which request, and where it names brokers. Pure.

Clients connect to the addresses that brokers announce. To keep them behind the proxy, the addresses in the replies to Metadata (up
to version 8, before flexible fields) and FindCoordinator (up to version 2) are replaced; all other bytes are passed on unchanged.
aiokafka uses no later version. Replies of later versions are passed on unchanged, and their clients bypass the proxy.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

Address = tuple[str, int]
Replace = Callable[[Address], Address]

_METADATA: Final = 3
_FIND_COORDINATOR: Final = 10
_NEWEST: Final = {_METADATA: 8, _FIND_COORDINATOR: 2}


def to_be_read(head: bytes) -> tuple[int, int, int] | None:
    """Correlation id, key and version of a request whose reply names brokers, from its first eight bytes."""
    if len(head) < 8:
        return None
    key, version, correlation = struct.unpack(">hhi", head)
    return (correlation, key, version) if version <= _NEWEST.get(key, -1) else None


def replaced(key: int, version: int, body: bytes, replace: Replace) -> bytes:
    """The reply's body, after its correlation id, with the addresses replaced.

    Raises:
        ValueError: the body is not such a reply.
    """
    reader = _Reader(body)
    return _metadata(reader, version, replace) if key == _METADATA else _coordinator(reader, version, replace)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big", signed=True)

    def take(self, size: int) -> bytes:
        self._at += size
        if self._at > len(self._data):
            raise ValueError("a reply of the broker ends too soon")
        return self._data[self._at - size : self._at]

    def text(self) -> bytes | None:
        size = self.number(2)
        return None if size < 0 else self.take(size)

    def rest(self) -> bytes:
        return self._data[self._at :]


def _metadata(reader: _Reader, version: int, replace: Replace) -> bytes:
    out = [reader.take(4)] if version >= 3 else []  # the throttle time
    count = reader.number(4)
    out.append(count.to_bytes(4, "big", signed=True))
    for _ in range(count):
        out += [reader.take(4), _address(reader, replace)]
        if version >= 1:
            out.append(_text(reader.text()))  # the rack
    return b"".join([*out, reader.rest()])


def _coordinator(reader: _Reader, version: int, replace: Replace) -> bytes:
    out = [reader.take(4)] if version >= 1 else []
    out.append(reader.take(2))
    if version >= 1:
        out.append(_text(reader.text()))  # the error's text
    return b"".join([*out, reader.take(4), _address(reader, replace), reader.rest()])


def _address(reader: _Reader, replace: Replace) -> bytes:
    host, port = reader.text(), reader.number(4)
    if host and port > 0:
        name, port = replace((host.decode(), port))
        host = name.encode()
    return _text(host) + port.to_bytes(4, "big", signed=True)


def _text(text: bytes | None) -> bytes:
    return b"\xff\xff" if text is None else len(text).to_bytes(2, "big") + text
