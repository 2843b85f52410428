"""URLs of servers by their host and port, and origins of pages. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

_REACHED_AT: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - compared with, not listened on
"""Wildcard addresses, which cannot be called, and an address that reaches the same server from this machine."""
_ORIGIN: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?\Z"
)
_USUAL: Final = {"http": 80, "https": 443}


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


def origin_of(text: str) -> str:
    """An origin as browsers send it: in lower case, without its scheme's usual port, and without the slash that address bars show.

    Raises:
        ValueError: it is none.
    """
    found = _ORIGIN.match(text.strip().removesuffix("/").lower())
    if found is None or int(found["port"] or 1) not in range(1, 65536):
        raise ValueError(text)
    scheme, port = found["scheme"], int(found["port"] or _USUAL.get(found["scheme"], 0))
    shown = f":{port}" if port and _USUAL.get(scheme) != port else ""
    return f"{scheme}://{found['host']}{shown}"
