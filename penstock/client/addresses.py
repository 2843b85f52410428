"""What a gateway's URL says, and which proxy stands before it. Pure.

Invariant: what ends up in a request's head has no character that ends a line.
"""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

from protocol.errors import InvalidArgument, quoted
from protocol.urls import authority, is_loopback

_PORTS: Final = {"http": 80, "https": 443}
_RPC_PORTS: Final = {"grpc": 8001, "grpcs": 8001}
_NAME: Final = re.compile(r"[A-Za-z0-9._~-]+\Z")
_ADDRESS: Final = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9._~-]+)?\Z")
_HIDDEN: Final = re.compile(r"//[^/@]*@")


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """A server.

    Attributes:
        url: as it is shown, without credentials.
        host: a name, or an address without brackets.
        path: in front of every request's path; "" or begins with a slash and ends without one.
        credentials: value of an `Authorization` or `Proxy-Authorization` header, or "".
    """

    url: str
    scheme: str
    host: str
    port: int
    path: str = ""
    credentials: str = ""

    @property
    def authority(self) -> str:
        """`host:port` for a `Host` header; the scheme's own port is left out."""
        if self.port == _PORTS.get(self.scheme):
            return f"[{self.host}]" if ":" in self.host else self.host
        return authority(self.host, self.port)


def gateway_address(url: str) -> Address:
    """The gateway's address.

    Args:
        url: `http://HOST[:PORT]`, `https://…`, or `HOST:PORT`, which means HTTP; a path is put in front of every request's.

    Raises:
        InvalidArgument: it is not one.
    """
    why = "it needs a scheme and a host, or a host and a port"
    if "://" in url or ":" in url or url == "localhost":
        try:
            return _parse(url if "://" in url else f"http://{url}")
        except ValueError as error:
            why = str(error)
    raise InvalidArgument(f"--url {_shown(url)} is not a gateway's URL, such as http://localhost:8000: {why}")


def rpc_address(url: str) -> Address:
    """The gateway's address for gRPC.

    Args:
        url: `grpc://HOST[:PORT]`, or `grpcs://…` with TLS; the port is 8001 if none is given.

    Raises:
        InvalidArgument: it is not one.
    """
    try:
        address = _parse(url, _RPC_PORTS)
        if not address.path:
            return address
        why = "gRPC has no path"
    except ValueError as error:
        why = str(error)
    raise InvalidArgument(f"--url {_shown(url)} is not a gateway's URL, such as grpc://localhost:8001: {why}")


def proxy_for(address: Address, proxies: Mapping[str, str], bypass: bool) -> Address | None:
    """The proxy that reaches a server; None for a direct connection.

    Args:
        address: the server; no proxy reaches one on this machine.
        proxies: URLs by scheme, as `urllib.request.getproxies_environment` reads them.
        bypass: whether the environment's `no_proxy` names the server.

    Raises:
        InvalidArgument: the proxy's URL is invalid, or of a kind that is not supported.
    """
    url = proxies.get(address.scheme) or proxies.get("all")
    if not url or bypass or is_loopback(address.host):
        return None
    try:
        proxy = _parse(url if "://" in url else f"http://{url}")
        if proxy.scheme == "http":
            return proxy
        why = "only proxies at http:// are supported"
    except ValueError as error:
        why = str(error)
    raise InvalidArgument(
        f"the environment's proxy {_shown(url)} for {address.url} cannot be used: {why}; no_proxy={address.host} goes past it"
    )


def _shown(url: str) -> str:
    """The URL for an error, without a password."""
    return quoted(_HIDDEN.sub("//…@", url))


def _parse(url: str, ports: Mapping[str, int] = _PORTS) -> Address:
    """Raises ValueError, whose text says why."""
    if not url.isprintable() or " " in url:
        raise ValueError("it has a space or a character that cannot be seen")
    parts = urlsplit(url)
    if parts.scheme not in ports or not parts.hostname:
        raise ValueError(f"it needs the scheme {' or '.join(ports)}, and a host")
    if parts.query or parts.fragment:
        raise ValueError("it must not have a query or a fragment")
    host = _host(parts.hostname)
    port = _port(parts) or ports[parts.scheme]
    path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
    shown = f"{parts.scheme}://{authority(host, port) if parts.port else host}{path}"
    return Address(shown, parts.scheme, host, port, path, _credentials(parts))


def _host(host: str) -> str:
    if ":" in host:
        if _ADDRESS.match(host):
            return host
    else:
        ascii_host = host if host.isascii() else host.encode("idna").decode()
        if _NAME.match(ascii_host):
            return ascii_host
    raise ValueError("its host is not a name or an address")


def _port(parts: SplitResult) -> int | None:
    """The port, if one is given."""
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"the port in {parts.netloc.rpartition('@')[2]!r} is not between 1 and 65535") from None
    if port == 0:
        raise ValueError("port 0 is not between 1 and 65535")
    return port


def _credentials(parts: SplitResult) -> str:
    if parts.username is None:
        return ""
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
