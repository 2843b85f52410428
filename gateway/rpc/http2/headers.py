"""Header blocks: a call's head from HPACK, and the heads and trailers of answers as HPACK. Pure.

Answers use no table, so their bytes need no state. The blocks of a client's calls repeat: one that left the table as it was is
remembered with its head until the table changes.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import quote

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from gateway.rpc.http2.frames import ErrorCode, Fault

Metadata = tuple[tuple[str, str | bytes], ...]
"""Names and values; those of names that end in `-bin` are bytes."""

_REMEMBERED: Final = 8
_REMEMBERED_BYTES: Final = 512
"""Heads that a connection remembers, and the bytes of their blocks: a client calls few methods, and there are many connections."""
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])\Z")
_UNIT: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TRANSPORT: Final = frozenset({"te", "content-type", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "host"})
_PSEUDO: Final = frozenset({":method", ":path", ":scheme", ":authority"})
_HOPS: Final = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})
_KEPT: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class CallHead(NamedTuple):
    """What a call's headers say.

    Attributes:
        method: of HTTP.
        path: names the service and its method.
        content_type: of the request.
        encoding: of its messages, "" for identity.
        timeout: seconds until its deadline; None without one.
        metadata: the rest.
    """

    method: str
    path: str
    content_type: str
    encoding: str
    timeout: float | None
    metadata: Metadata


class HeaderReader:
    """Reads the header blocks of one connection, in order.

    Args:
        limit: bytes of a head when it is decoded, as HTTP/2 counts them.
    """

    __slots__ = ("_decoder", "_known")

    def __init__(self, limit: int) -> None:
        self._decoder = Decoder(max_header_list_size=limit)
        self._known: dict[bytes, CallHead] = {}

    def read(self, block: bytes) -> CallHead:
        """The head in a block.

        Raises:
            Fault: it is no header block, too large, or no request's.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        table = self._decoder.header_table
        newest, maxsize = _newest(table), table.maxsize
        head = _head(self._decoded(block))
        if _newest(table) is not newest or table.maxsize != maxsize:
            self._known.clear()
        elif len(block) <= _REMEMBERED_BYTES:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[block] = head
        return head

    def skip(self, block: bytes) -> None:
        """Read a block for what it does to the table alone: trailers of a request.

        Raises:
            Fault: as `read`.
        """
        self._known.clear()
        if any(name.startswith(b":") for name, _ in self._decoded(block)):
            raise Fault(ErrorCode.PROTOCOL_ERROR, "trailers have a pseudo-header")

    def _decoded(self, block: bytes) -> list[tuple[bytes, bytes]]:
        try:
            return [(name, value) for name, value in self._decoder.decode(block, raw=True)]
        except OversizedHeaderListError:
            raise Fault(ErrorCode.ENHANCE_YOUR_CALM, "the headers are too large") from None
        except (HPACKError, UnicodeError, IndexError, ValueError) as error:
            raise Fault(ErrorCode.COMPRESSION_ERROR, f"the headers cannot be decoded: {type(error).__name__}") from None


def _newest(table: HeaderTable) -> object:
    """The entry that was put into the dynamic table last: another object after every change but one of the table's size."""
    return table.dynamic_entries[0] if table.dynamic_entries else None


def _head(fields: Iterable[tuple[bytes, bytes]]) -> CallHead:
    special: dict[str, str] = {}
    metadata: list[tuple[str, str | bytes]] = []
    for raw_name, raw_value in fields:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name.startswith(":"):
            if metadata or name in special or name not in _PSEUDO:
                raise Fault(ErrorCode.PROTOCOL_ERROR, "pseudo-headers must come first, once each, and be a request's")
            special[name] = value
        elif name in _HOPS or (name == "te" and value != "trailers"):
            raise Fault(ErrorCode.PROTOCOL_ERROR, "a header of HTTP/1.1 is not allowed")
        elif name != name.lower():
            raise Fault(ErrorCode.PROTOCOL_ERROR, "a header's name is not lower-case")
        elif name in _TRANSPORT:
            special[name] = value
        elif name.endswith("-bin"):
            metadata.append((name, _binary(value)))
        else:
            metadata.append((name, value))
    if not {":method", ":path", ":scheme"} <= special.keys() or not special[":path"]:
        raise Fault(ErrorCode.PROTOCOL_ERROR, "a request lacks :method, :path or :scheme")
    encoding = special.get("grpc-encoding", "")
    return CallHead(
        special[":method"], special[":path"], special.get("content-type", ""), "" if encoding == "identity" else encoding,
        parse_timeout(special["grpc-timeout"]) if "grpc-timeout" in special else None, tuple(metadata),
    )  # fmt: skip


def _binary(value: str) -> bytes:
    """Base64, with or without padding; what is none becomes its own bytes."""
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        return value.encode("latin-1")


def parse_timeout(value: str) -> float | None:
    """Seconds of `grpc-timeout`; None if it is malformed."""
    match = _TIMEOUT.match(value)
    return None if match is None else int(match[1]) * _UNIT[match[2]]


def literal(name: bytes, value: bytes) -> bytes:
    """A header that changes no table and is not compressed."""
    return b"\0" + _length(len(name)) + name + _length(len(value)) + value


def _length(size: int) -> bytes:
    """A length as HPACK writes it, without Huffman coding."""
    if size < 127:
        return bytes((size,))
    size -= 127
    rest = bytearray((127,))
    while size > 127:
        rest.append(size & 127 | 128)
        size >>= 7
    rest.append(size)
    return bytes(rest)


STATUS_OK: Final = b"\x88"
"""`:status: 200` of the static table."""
RESPONSE: Final = STATUS_OK + literal(b"content-type", b"application/grpc")
"""The head of every answer with a message."""
OK: Final = literal(b"grpc-status", b"0")


def response(encoding: str = "") -> bytes:
    """The head of an answer whose messages may be compressed."""
    return RESPONSE + literal(b"grpc-encoding", encoding.encode()) if encoding else RESPONSE


def trailers(status: int, details: str, metadata: Iterable[tuple[str, str]]) -> bytes:
    """The trailers of an answer."""
    parts = [OK if not status else literal(b"grpc-status", b"%d" % status)]
    if details:
        parts.append(literal(b"grpc-message", quote(details, safe=_KEPT).encode()))
    parts += [literal(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in metadata]
    return b"".join(parts)


def http_status(status: int) -> bytes:
    """The head of an answer to what is no gRPC call."""
    return literal(b":status", b"%d" % status) + literal(b"content-length", b"0")
