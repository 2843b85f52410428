"""Tells browsers which pages may read the API's answers, around all routes but those of calls (`connection` does it for these)."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.rest.origins import Origins


class CrossOrigin:
    """Answers preflights, which carry no key, and adds the headers to all answers.

    Args:
        app: the API.
        origins: whose pages may call.
    """

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102  # ASGI's
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        fields = dict(scope["headers"])
        told = self._origins.preflight(scope["method"], fields)
        if told is not None:
            response = Response(status_code=204)
            response.raw_headers.extend(told)
            await response(scope, receive, send)
            return
        lines = self._origins.fields(fields)

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *lines]
            await send(message)

        await self._app(scope, receive, add)
