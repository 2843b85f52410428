"""Refuses heads that two servers could frame differently, and hosts that this gateway does not serve. Pure.

The parser refuses most ambiguities: both lengths, repeated lengths, whitespace before a colon, bare line ends, folded lines. This
module refuses the rest.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from gateway.rest.origins import NONE, Origins
from protocol.errors import quoted

Fields = Mapping[bytes, bytes]
Refused = tuple[int, str]
"""Status and message."""

_ONCE: Final = (b"host", b"content-length", b"transfer-encoding", b"penstock-lane")
_MAX_KNOWN: Final = 64


def fault(version: str, headers: Sequence[tuple[bytes, bytes]], fields: Fields) -> Refused | None:
    """Why the framing of a request is refused; None if it is sound.

    Args:
        version: as in the request line.
        headers: names in lower case, and values.
        fields: the same as a mapping.
    """
    if version not in ("1.1", "1.0"):
        return 505, "only HTTP/1.1 and HTTP/1.0 are supported"
    names = [name for name, _ in headers]
    for name in _ONCE:
        if names.count(name) > 1:
            return 400, f"the request has more than one {name.decode()} header"
    if version == "1.1" and b"host" not in fields:
        return 400, "the request has no host header"
    coding = fields.get(b"transfer-encoding")
    if coding is None:
        return None
    if version == "1.0":
        return 400, "HTTP/1.0 has no transfer-encoding"
    if coding.strip().lower() != b"chunked":
        return 501, "the only supported transfer-encoding is 'chunked'"
    return None


def framing(fields: Fields) -> bytes:
    """The header lines that frame the body; nothing if there is no body."""
    if b"transfer-encoding" in fields:
        return b"transfer-encoding: chunked\r\n"
    length = fields.get(b"content-length", b"0").strip()
    return b"content-length: %b\r\n" % length if length.strip(b"0") else b""


class Hosts:
    """The hosts under which a gateway without an API key may be called.

    A web page can make its visitor's browser call this machine: by a name that resolves to 127.0.0.1 (DNS rebinding: `Host` is that
    name), or directly (`Origin` is the page's). Both are refused. Pages of other servers on this machine may send calls, which say
    nothing to them unless `origins` names them; they may not change anything here: who runs a notebook or another project's page
    does not thereby let it load models.

    Args:
        names: allowed besides localhost and loopback addresses.
        origins: pages of others that may call.
    """

    __slots__ = ("_known", "_names", "_origins")

    def __init__(self, names: Collection[str], origins: Origins = NONE) -> None:
        self._names = frozenset([name.lower().strip("[]") for name in names])
        self._origins = origins
        self._known: set[bytes] = set()

    def fault(self, fields: Fields) -> Refused | None:
        """Why the `Host` or `Origin` of a request is refused; None if it is allowed."""
        host = fields.get(b"host")
        if host is not None and host not in self._known and not self._learn(host, b"//" + host):
            return 403, f"this gateway is not {quoted(host)}: call it as localhost, or allow the name (--allowed-hosts)"
        origin = fields.get(b"origin")
        if origin is None or origin in self._known or self._origins.allows(origin) or self._learn(origin, origin):
            return None
        return 403, (
            f"pages of {quoted(origin)} may not call this gateway: allow their origin (--cors-origin), or their host "
            "(--allowed-hosts) if a proxy serves both"
        )

    def changing_fault(self, fields: Fields) -> Refused | None:
        """Why a page may not send a request that changes what is served or how; None if it may, or if no page sends it."""
        origin = fields.get(b"origin")
        if origin is None or self._origins.names(origin):
            return None
        name = _name_of(origin)
        if name and origin.partition(b"://")[2].lower() == fields.get(b"host", b"").lower():
            return None
        if name in self._names and not _is_local(name):
            return None
        return 403, f"pages of {quoted(origin)} may not change anything here: name their origin (--cors-origin)"

    def _learn(self, value: bytes, url: bytes) -> bool:
        if not self._allows(url):
            return False
        if len(self._known) < _MAX_KNOWN and len(value) < _MAX_KNOWN:
            self._known.add(value)
        return True

    def _allows(self, url: bytes) -> bool:
        name = _name_of(url)
        return name in self._names or _is_local(name)


def _name_of(url: bytes) -> str:
    """The host of a URL in lower case; "" if there is none, or none that can be read."""
    try:
        return "" if b"@" in url else urlsplit(url.decode("ascii")).hostname or ""
    except ValueError:  # also for text that is not ASCII
        return ""


def _is_local(name: str) -> bool:
    """Whether a host is this machine under whatever name server."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
