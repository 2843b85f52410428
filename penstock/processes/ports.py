"""The ports that all acceptor processes of one gateway listen on."""

from __future__ import annotations

import dataclasses
import socket

from gateway.rest.listening import bind, reserve
from gateway.settings import GatewaySettings
from protocol.errors import ConfigError


def reserved(settings: GatewaySettings) -> tuple[GatewaySettings, list[socket.socket]]:
    """The settings with real port numbers instead of 0, and sockets that keep the ports while they are open.

    Raises:
        ConfigError: a port is taken, or the address cannot be used.
    """
    held: list[socket.socket] = []
    chosen = {}
    for name in ("http_port", "grpc_port"):
        port = getattr(settings, name)
        if port is None:
            continue
        option = f"--{name.replace('_', '-')}"
        try:
            if port:  # SO_REUSEPORT alone would join another gateway of the same user
                bind(settings.host, port, option=option).close()
            held.append(reserve(settings.host, port, option=option))
        except ConfigError:
            for each in held:
                each.close()
            raise
        chosen[name] = held[-1].getsockname()[1]
    return dataclasses.replace(settings, **chosen), held
