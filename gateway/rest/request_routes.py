"""The routes of a queue: the status, answer and cancellation of requests.

GET    /v2/requests/{id or handle}[?wait_s=]
DELETE /v2/requests/{id or handle}
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.calls.service import Service
from gateway.durable.requests import Requests, RequestStatus
from gateway.outputs import classification
from gateway.rest import bodies
from gateway.rest.errors import STATUS, error_body
from gateway.rest.json_pool import JsonPool
from gateway.rest.plain import Json
from gateway.rest.responses import TEXT_PER_BYTE
from gateway.timing import timing_value
from protocol.errors import InvalidArgument, NotFound, quoted
from protocol.messages import InferReply
from protocol.v2 import ResponseBody


class RequestRoutes:
    """The handlers."""

    def __init__(self, service: Service, requests: Requests, json: JsonPool) -> None:
        self._service = service
        self._requests = requests
        self._json = json

    def routes(self) -> list[Route]:
        """The routes."""
        path = "/v2/requests/{token:path}"
        return [Route(path, self._request), Route(path, self._cancel, methods=["DELETE"])]

    async def _request(self, request: Request) -> Response:
        status = await self._find(request, _wait(request))
        reply = status.reply
        if reply is None:
            return Json(_state(status), 202, {"retry-after": "1", "penstock-request-id": _field(status.id)})
        headers = {"penstock-request-id": _field(status.id)}
        timing = timing_value(reply.timing, reply.woken)
        if timing:
            headers["penstock-timing"] = timing.decode()
        if reply.failure is not None:
            return Response(error_body(reply.failure.message), STATUS[reply.failure.code], headers, "application/json")
        raw = "application/octet-stream" in request.headers.get("accept", "")
        if status.classes:
            reply = await self._classified(reply, status)
        body = await self._render(reply, raw or status.binary)
        if body.header_length is None:
            return Response(b"".join(body.parts), 200, headers, "application/json")
        headers["inference-header-content-length"] = str(body.header_length)
        return Response(b"".join(body.parts), 200, headers, "application/octet-stream")

    async def _find(self, request: Request, wait: float) -> RequestStatus:
        """The status of a request. A long poll is counted while it waits, and ends with its connection."""
        token, principal = request.path_params["token"], request.state.principal
        if not wait:
            return await self._requests.find(token, principal)
        with self._service.admission.poll():
            asked = asyncio.ensure_future(self._requests.find(token, principal, wait))
            gone = asyncio.ensure_future(_gone(request))
            try:
                await asyncio.wait((asked, gone), return_when=asyncio.FIRST_COMPLETED)
                if not asked.done():
                    raise ClientDisconnect
                return asked.result()
            finally:
                asked.cancel()
                gone.cancel()
                await asyncio.gather(asked, gone, return_exceptions=True)
                del asked, gone  # breaks the cycle of error, traceback and task

    async def _classified(self, reply: InferReply, status: RequestStatus) -> InferReply:
        """The answer with classes for tensors; without labels if the version is gone."""
        try:
            labels = self._service.catalogue.get(reply.model, reply.version).labels
        except NotFound:
            labels = {}
        arguments = (reply.outputs, dict(status.classes), status.batches, labels)
        outputs = (
            await asyncio.to_thread(classification.classify_named, *arguments)
            if classification.takes_long(reply.outputs, dict(status.classes), status.batches)
            else classification.classify_named(*arguments)
        )
        return dataclasses.replace(reply, outputs=outputs)

    async def _render(self, reply: InferReply, binary: bodies.Binary) -> ResponseBody:
        """The answer's body; a large one is written by a JSON process."""
        settings = self._service.settings
        if bodies.json_bytes(reply, binary) * TEXT_PER_BYTE <= settings.json_offload_bytes:
            return bodies.render(reply, binary)
        return await self._json.render(reply, binary, self._service.clock() + settings.default_timeout)

    async def _cancel(self, request: Request) -> Response:
        status = await self._requests.cancel(request.path_params["token"], request.state.principal)
        return Json(_state(status), 200, {"penstock-request-id": _field(status.id)})


def _field(text: str) -> str:
    """An id as a header value, percent-encoded if it is not printable ASCII."""
    return text if text.isascii() and text.isprintable() and text == text.strip() else quote(text, safe="~.:/")


def _state(status: RequestStatus) -> dict[str, Any]:
    return {
        "id": status.id,
        "state": status.state,
        "model_name": status.model,
        "model_version": status.version,
        "age_s": round(status.age, 3),
    }


def _wait(request: Request) -> float:
    """Seconds of a long poll: `?wait_s=` or `Prefer: wait=N`."""
    text = request.query_params.get("wait_s")
    if text is None:
        preferences = [part.strip().partition("=") for part in request.headers.get("prefer", "").split(",")]
        text = next((value for name, _, value in preferences if name.strip().lower() == "wait"), "0")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e6:
        raise InvalidArgument(f"wait must be a number of seconds, not {quoted(text)}")
    return seconds


async def _gone(request: Request) -> None:
    """Return when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
