"""Readiness probes in each server's own protocol: requests, parsers of answers, and the calls.

Written by hand because a probe must work before any client, inside or outside an event loop, and tell "not yet" from "ready":
Kafka lists itself in its metadata only once it takes work, Redis answers LOADING until its data is read.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import BinaryIO

CLIENT_ID = b"penstock"
METADATA_API = 3
LARGEST_ANSWER = 1 << 20


def metadata_request(correlation: int) -> bytes:
    """A Kafka Metadata request, version 1, for no topic at all: size, header, an empty list of topics."""
    header = struct.pack(">hhih", METADATA_API, 1, correlation, len(CLIENT_ID)) + CLIENT_ID
    body = header + struct.pack(">i", 0)
    return struct.pack(">i", len(body)) + body


def brokers_in(answer: bytes, correlation: int) -> int:
    """How many brokers a Metadata answer (without its size) lists; 0 for anything else."""
    if len(answer) < 8:
        return 0
    answered, count = struct.unpack_from(">ii", answer)
    return max(count, 0) if answered == correlation else 0


def kafka_answers(host: str, port: int, timeout: float = 1.0) -> bool:
    """Whether a broker listens there in plain text and takes work."""
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.sendall(metadata_request(correlation=1))
            (size,) = struct.unpack(">i", _exactly(connection, 4))
            if not 8 <= size <= LARGEST_ANSWER:
                return False
            return brokers_in(_exactly(connection, size), correlation=1) > 0
    except OSError:
        return False


def redis_ready(answer: bytes) -> bool:
    """Whether this beginning of an answer to PING means that Redis takes commands; NOAUTH (password required) does."""
    return answer[:5] in (b"+PONG", b"-NOAU")


def redis_answers(host: str, port: int, timeout: float = 1.0) -> bool:
    """Whether a Redis listens there in plain text and has loaded its data."""
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.sendall(b"PING\r\n")
            return redis_ready(_exactly(connection, 5))
    except OSError:
        return False


def redis_words(host: str, port: int, *command: str, timeout: float = 2.0) -> list[str]:
    """The words of Redis' answer to a command, in order and without its structure.

    Raises:
        OSError: no answer, or an error.
    """
    sent = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in (part.encode() for part in command))
    with socket.create_connection((host, port), timeout) as connection:
        connection.sendall(b"*%d\r\n" % len(command) + sent)
        return list(_words(connection.makefile("rb")))


def _words(stream: BinaryIO) -> Iterator[str]:
    """One RESP2 answer, flattened."""
    kind, line = stream.read(1), stream.readline().rstrip(b"\r\n")
    if kind == b"*":
        for _ in range(int(line)):
            yield from _words(stream)
    elif kind == b"$" and int(line) >= 0:
        yield stream.read(int(line) + 2)[:-2].decode(errors="replace")
    elif kind in (b"+", b":"):
        yield line.decode(errors="replace")
    elif kind != b"$":
        raise ConnectionError(f"Redis answered {line.decode(errors='replace') or 'nothing'}")


def listens(host: str, port: int, timeout: float = 1.0) -> bool:
    """Whether anything accepts connections there; a TLS listener cannot be probed further without its keys."""
    try:
        socket.create_connection((host, port), timeout).close()
    except OSError:
        return False
    return True


def _exactly(connection: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        piece = connection.recv(count - len(received))
        if not piece:
            raise ConnectionError("closed in the middle of an answer")
        received += piece
    return bytes(received)
