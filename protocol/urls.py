"""URLs of servers by their host and port. Pure."""

from __future__ import annotations

import ipaddress
from typing import Final

_REACHED_AT: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - compared with, not listened on
"""Wildcard addresses, which cannot be called, and an address that reaches the same server from this machine."""


def callable_host(host: str) -> str:
    """A name, or an address without brackets, that reaches a server of this machine that listens on `host`.

    A zone (`fe80::1%eth0`) is kept.
    """
    address, percent, zone = host.removeprefix("[").removesuffix("]").partition("%")
    try:
        plain = str(ipaddress.ip_address(address))
    except ValueError:
        return _REACHED_AT.get(host, host)
    return _REACHED_AT.get(plain, plain) + percent + zone


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def authority(host: str, port: int) -> str:
    """`host:port`, with brackets around IPv6 addresses."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def server_url(scheme: str, host: str, port: int) -> str:
    """`http://host:port`, with brackets around IPv6 addresses; a wildcard address becomes one that can be called."""
    return f"{scheme}://{authority(callable_host(host), port)}"
