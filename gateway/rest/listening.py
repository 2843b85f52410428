"""Sockets to listen on."""

from __future__ import annotations

import socket
from typing import Final

from protocol.errors import ConfigError
from protocol.runtime.listening import refusal
from protocol.urls import authority

_BACKLOG: Final = 2048


def bind(
    host: str, port: int, *, shared: bool = False, option: str = "--http-port", host_option: str = "--host"
) -> socket.socket:
    """A listening socket.

    Args:
        option, host_option: that name the address, for errors.
        shared: other processes of this user may listen on the same port (SO_REUSEPORT); the kernel spreads connections over them.

    Raises:
        ConfigError: naming the address and the system's error.
    """
    return _bound(host, port, (option, host_option), shared=shared, backlog=_BACKLOG)


def reserve(host: str, port: int, *, option: str = "--http-port") -> socket.socket:
    """A socket that keeps a port for sockets of `bind` with `shared`, in this process or another. It gets no connections.

    Args:
        port: 0 takes a free one.
        option: that names the port, for errors.

    Raises:
        ConfigError: as `bind`.
    """
    return _bound(host, port, (option, "--host"), shared=True, backlog=None)


def _bound(host: str, port: int, options: tuple[str, str], *, shared: bool, backlog: int | None) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"cannot listen on {authority(host, port)}: {refusal(error, *options)}") from None
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
        raise ConfigError(f"cannot listen on {authority(host, port)}: {refusal(error, *options)}") from None
    return listener
