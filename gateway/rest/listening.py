"""Sockets to listen on."""

from __future__ import annotations

import errno
import socket
from typing import Final

from protocol.errors import ConfigError
from protocol.urls import authority

_BACKLOG: Final = 2048


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket.

    Args:
        shared: other processes of this user may listen on the same port (SO_REUSEPORT); the kernel spreads connections over them.

    Raises:
        ConfigError: naming the address and the system's error.
    """
    return _bound(host, port, shared=shared, backlog=_BACKLOG)


def reserve(host: str, port: int) -> socket.socket:
    """A socket that keeps a port for sockets of `bind` with `shared`, in this process or another. It gets no connections.

    Args:
        port: 0 takes a free one.

    Raises:
        ConfigError: as `bind`.
    """
    return _bound(host, port, shared=True, backlog=None)


def _bound(host: str, port: int, *, shared: bool, backlog: int | None) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"cannot listen on {authority(host, port)}: {error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        if backlog is not None:
            listener.listen(backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {authority(host, port)}: {_why(error)}") from None
    return listener


def _why(error: OSError) -> str:
    """The system's error in words, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return "another program uses this port; end that one, or choose another --http-port"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have this address; 0.0.0.0 is all that it has, 127.0.0.1 is for its own callers"
    if error.errno == errno.EACCES:
        return "this user may not listen there (below 1024 only root may); choose another --http-port, such as 8000"
    return f"{error}; choose another --http-port"
