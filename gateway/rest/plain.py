"""What the routes besides infer share: JSON in and out, with a bound on bodies."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway.admission.budget import Share
from gateway.rest.reading import MAX_PLAIN_BODY
from protocol.errors import CodecError, Exhausted, TooLarge


class Json(Response):
    """A JSON response by orjson."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return orjson.dumps(content)


async def whole_body(request: Request, limit: int = MAX_PLAIN_BODY, share: Share | None = None) -> bytes:
    """The whole body.

    Args:
        limit: of its bytes.
        share: holds a large one, and what is decoded from it.

    Raises:
        TooLarge: it has more bytes than the limit.
        Exhausted: the share has no room.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise TooLarge(f"the body of this request may have at most {limit} bytes")
        if share is not None and len(body) > MAX_PLAIN_BODY and not share.hold(2 * len(body)):
            raise Exhausted("this gateway holds too many bytes of requests (max_queued_bytes); try again later")
    return bytes(body)


def parse_json(raw: bytes) -> Any:
    """A JSON document.

    Raises:
        CodecError: it is none.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise CodecError(f"failed to parse the request JSON buffer: {error}") from None


async def json_object(request: Request) -> dict[str, Any]:
    """The body, a JSON object.

    Raises:
        CodecError: it is none.
        TooLarge: as `whole_body`.
    """
    document = parse_json(await whole_body(request))
    if type(document) is not dict:
        raise CodecError("the request body must be a JSON object")
    return document
