"""The model and version of the URL of a call, and what it wants; with a cache of the URLs in use."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

import httptools

from gateway.admission.budget import Budget, Share

ModelRoute = tuple[str, str, str]
"""Model, version and verb; the version is "" if the URL has none, the verb is `INFER`, `GENERATE` or `GENERATE_STREAM`."""

INFER: Final = "infer"
GENERATE: Final = "generate"
GENERATE_STREAM: Final = "generate_stream"

MAX_URL: Final = 256
"""Longest URL that is cached, in bytes."""
MAX_BYTES: Final = 256 * 1024
_ENTRY: Final = 400
"""Bytes counted for an entry besides its URL."""
_ROUTE: Final = re.compile(rb"/v2/models/([^/]+)(?:/versions/([0-9]{1,19}))?/(infer|generate|generate_stream)\Z")


class RouteCache:
    """Finds the model of the URL of a call. Cached URLs are short, name a known model, and are counted.

    Args:
        budget: the cache draws from it.
        known: whether a model of this name exists.
    """

    __slots__ = ("_known", "_routes", "_share")

    def __init__(self, budget: Budget, known: Callable[[str], bool]) -> None:
        self._known = known
        self._routes: dict[bytes, ModelRoute] = {}
        self._share = Share(budget)

    def find(self, url: bytes) -> ModelRoute | None:
        """(model, version, verb) of the URL of a call, None for any other."""
        route = self._routes.get(url)
        if route is not None:
            return route
        route = parse_route(url)
        if route is not None and len(url) <= MAX_URL and self._known(route[0]):
            size = self._share.size + _ENTRY + len(url)
            if size > MAX_BYTES:
                self._routes.clear()
                size = _ENTRY + len(url)
            if self._share.hold(size):
                self._routes[url] = route
        return route


def parse_route(url: bytes) -> ModelRoute | None:
    """(model, version, verb) of the URL of a call, None for any other; not cached."""
    try:
        path = httptools.parse_url(url).path
        match = _ROUTE.match(path or b"")
        if match is None:
            return None
        return unquote(match[1].decode("ascii"), errors="strict"), (match[2] or b"").decode(), match[3].decode()
    except (httptools.HttpParserError, UnicodeDecodeError):
        return None
