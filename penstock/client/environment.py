"""What the clients take from their process: the environment's proxies, and trusted certificates."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path
from typing import Final

from penstock.client.addresses import Address, gateway_address, proxy_for
from penstock.client.exchange import Heads
from protocol.errors import InvalidArgument
from protocol.runtime.outages import system_error
from protocol.urls import is_loopback

_OF_ANOTHER: Final = (62, 64)
"""OpenSSL's codes for a certificate of another name or address."""
_LOOPBACK: Final = ("127.0.0.1", "::1")


class Route:
    """How to reach one gateway.

    Args:
        url: see `addresses.gateway_address`.
        api_key: the gateway's, or "".
        tls: for `https`; None trusts the system's certificates.

    Attributes:
        hosts: of the gateway or its proxy, to be tried in their order: localhost is this machine at both its addresses, whatever
            the system's resolver knows of it.

    Raises:
        InvalidArgument: the URL, the key or the environment's proxy is invalid.
    """

    def __init__(self, url: str, api_key: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.address = gateway_address(url)
        self.url = self.address.url
        self.proxy = _proxy(self.address)
        self.peer = self.proxy or self.address
        self.hosts = (self.peer.host, *(_LOOPBACK if self.peer.host == "localhost" else ()))
        self.tunnelled = self.proxy is not None and self.address.scheme == "https"
        self.tls = (tls or ssl.create_default_context()) if self.address.scheme == "https" else None
        self.heads = Heads(self.address, self.proxy, _fixed(self.address, api_key))

    def failed(self, error: BaseException) -> str:
        """What a failed connection's error says."""
        refused = isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error)
        if self.proxy is not None:
            why = "connection refused" if refused else _why(error, self.peer.host)
            return (
                f"{self.url} cannot be reached: the proxy {self.proxy.url}, which the environment names: {why}; "
                f"no_proxy={self.address.host} goes past it"
            )
        why = "connection refused: no server listens there; penstock serve starts one" if refused else ""
        return f"{self.url} cannot be reached: {why or _why(error, self.peer.host)}"


def _why(error: BaseException, host: str) -> str:
    """The error of a connection, in words."""
    if isinstance(error, TimeoutError):
        return "no connection in time"
    if isinstance(error, socket.gaierror):
        return f"the name '{host}' has no address: {(error.strerror or '').lower()}"
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = "" if error.verify_code in _OF_ANOTHER else _authorities()
        return f"its certificate is not trusted: {error.verify_message.rstrip('.')}{advice}"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "it does not speak TLS; its URL may begin with http://"
    return system_error(str(error)) or str(error) or type(error).__name__


def _authorities() -> str:
    """Where trusted authorities come from."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if (path := os.environ.get(name)) and not Path(path).exists():
            return f"; {name} names '{path}', which does not exist"
    return "; SSL_CERT_FILE names a PEM file of authorities to trust"


def _proxy(address: Address) -> Address | None:
    if is_loopback(address.host) or not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

    proxies = getproxies_environment()
    return proxy_for(address, proxies, bool(proxy_bypass_environment(f"{address.host}:{address.port}", proxies)))


def _fixed(address: Address, api_key: str) -> dict[str, str]:
    """Headers of every request."""
    if not api_key.isascii() or not api_key.isprintable():
        raise InvalidArgument("the API key must be printable ASCII, as it travels in a header")  # does not repeat it
    value = f"Bearer {api_key}" if api_key else address.credentials
    return {"authorization": value} if value else {}
