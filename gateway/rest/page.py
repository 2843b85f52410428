"""Answers browsers with the page, in front of the API.

`/` is the page for callers that accept HTML, which browsers do; everybody else gets what the API answers there, as Triton's clients
do. The files hold no secret, so nobody needs a key for them; the page asks for it before it calls the API.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.page.files import ROOT, PageFile, page_files
from gateway.page.policy import HEADERS

_METHODS: Final = frozenset({"GET", "HEAD"})


class Page:
    """Answers requests for the page's files, and passes all others on.

    Args:
        app: the API.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._files = page_files()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102  # ASGI's
        file = self._file(scope)
        if file is not None:
            await _response(file, dict(scope["headers"]))(scope, receive, send)
            return

        async def vary(message: Message) -> None:
            if message["type"] == "http.response.start":  # a cache must not keep the API's answer for browsers
                message["headers"] = [*message.get("headers", ()), (b"vary", b"Accept")]
            await send(message)

        await self._app(scope, receive, vary if scope["type"] == "http" and scope["path"] == ROOT else send)

    def _file(self, scope: Scope) -> PageFile | None:
        """The file that a request gets; None if it is not for the page."""
        if scope["type"] != "http" or scope["method"] not in _METHODS:
            return None
        path = scope["path"]
        if path == ROOT and b"text/html" not in dict(scope["headers"]).get(b"accept", b"").lower():
            return None
        return self._files.get(path)


def _response(file: PageFile, fields: Mapping[bytes, bytes]) -> Response:
    """The file, or that it has not changed."""
    known = [tag.strip().removeprefix("W/") for tag in fields.get(b"if-none-match", b"").decode("latin-1").split(",")]
    headers = {**HEADERS, "ETag": file.etag, "Vary": "Accept"}
    if file.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(file.body, headers=headers, media_type=file.kind)
