"""What the routes besides infer share: JSON in and out, with a bound on bodies."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway.rest.reading import MAX_PLAIN_BODY
from protocol.errors import CodecError, TooLarge


class Json(Response):
    """A JSON response by orjson."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return orjson.dumps(content)


async def small_body(request: Request) -> bytes:
    """The whole body.

    Raises:
        TooLarge: it has more than `MAX_PLAIN_BODY` bytes.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_PLAIN_BODY:
            raise TooLarge(f"the body of this request may have at most {MAX_PLAIN_BODY} bytes")
    return bytes(body)


async def json_object(request: Request) -> dict[str, Any]:
    """The body, a JSON object.

    Raises:
        CodecError: it is none.
        TooLarge: as `small_body`.
    """
    raw = await small_body(request)
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise CodecError(f"failed to parse the request JSON buffer: {error}") from None
    if type(document) is not dict:
        raise CodecError("the request body must be a JSON object")
    return document
