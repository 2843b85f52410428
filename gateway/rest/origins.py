"""Pages of other origins that may call this gateway (CORS, as the Fetch standard has it), and what browsers are told of it. Pure.

Off unless somebody names origins: then browsers let those pages read answers. `*` is any page; credentials (cookies, a browser's
own passwords) are never asked for, an API key is a header that the page itself must know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from protocol.urls import origin_of

Fields = Mapping[bytes, bytes]
Lines = list[tuple[bytes, bytes]]
"""Header fields, names in lower case."""

ANY: Final = "*"
EXPOSED: Final = (
    "Inference-Header-Content-Length", "Penstock-Request-Id", "Penstock-Timing", "Penstock-Error", "Location", "Preference-Applied",
    "Retry-After",
)  # fmt: skip
"""Headers of answers that pages may read besides those that every page may."""
_SENT: Final = (
    b"authorization, content-type, inference-header-content-length, idempotency-key, penstock-timeout-ms, prefer"
)
"""Headers that pages may send, if a preflight does not say which."""
_METHODS: Final = b"GET, HEAD, POST, PUT, DELETE"
_MAX_AGE: Final = b"7200"
"""Seconds for which a browser asks no more; longer ones are cut by browsers."""
_NAMES: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z, -]{1,1024}\Z")


class Origins:
    """The origins whose pages may call.

    Args:
        origins: as people write them, or `*`.

    Attributes:
        open: some are named.

    Raises:
        ValueError: one is none; the settings have looked before.
    """

    __slots__ = ("_any", "_named", "_tail", "open")

    def __init__(self, origins: Sequence[str] = ()) -> None:
        self._any = ANY in origins
        self._named = frozenset([origin_of(text).encode() for text in origins if text != ANY])
        self._tail: Lines = [(b"access-control-expose-headers", ", ".join(EXPOSED).encode())]
        self.open = bool(origins)

    def allows(self, origin: bytes) -> bool:
        """Whether its pages may call."""
        return self._any or origin in self._named

    def names(self, origin: bytes) -> bool:
        """Whether it is named, so that its pages may also change what is served."""
        return origin in self._named

    def fields(self, fields: Fields) -> Lines:
        """What an answer says to a browser, by the request's headers."""
        origin = fields.get(b"origin")
        if origin is None or not self.allows(origin):
            return [] if self._any else [(b"vary", b"Origin")]
        return [*self._whom(origin), *self._tail]

    def lines(self, fields: Fields) -> bytes:
        """The same as header lines; nothing for a call that no page makes."""
        if b"origin" not in fields:
            return b""
        return b"".join([b"%b: %b\r\n" % line for line in self.fields(fields)])

    def preflight(self, method: str, fields: Fields) -> Lines | None:
        """What a browser is told before it sends a page's call; None if the request asks for something else."""
        origin = fields.get(b"origin")
        if method != "OPTIONS" or origin is None or b"access-control-request-method" not in fields:
            return None
        if not self.allows(origin):
            return None
        asked = fields.get(b"access-control-request-headers", b"")
        lines = [
            *self._whom(origin),
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", asked if _NAMES.match(asked) else _SENT),
            (b"access-control-max-age", _MAX_AGE),
        ]
        if fields.get(b"access-control-request-private-network") == b"true":  # a public page calls a private address
            lines.append((b"access-control-allow-private-network", b"true"))
        return lines

    def _whom(self, origin: bytes) -> Lines:
        if self._any:
            return [(b"access-control-allow-origin", b"*")]
        return [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]


NONE: Final = Origins()
"""Nobody's pages."""
