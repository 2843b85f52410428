"""All routes but infer, as a Starlette application: health, metadata, configuration, statistics, index, requests."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import orjson
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.calls.service import Service
from gateway.catalogue import statistics
from gateway.durable.requests import Requests, RequestStatus
from gateway.rest import bodies
from gateway.rest.access import Access
from gateway.rest.errors import STATUS, error_body, error_headers
from gateway.rest.json_pool import JsonPool
from gateway.rest.reading import MAX_PLAIN_BODY
from gateway.rest.responses import TEXT_PER_BYTE
from protocol.errors import Code, CodecError, FleetError, InvalidArgument, NotFound, TooLarge, Unsupported, quoted
from protocol.messages import InferReply
from protocol.v2 import ResponseBody

EXTENSIONS: Final = (
    "binary_tensor_data", "model_configuration", "model_repository(index)", "parameters", "schedule_policy", "statistics",
)  # fmt: skip
_OPEN: Final = "/v2/health/"
_MODEL: Final = "/v2/models/{model}"
_MEMORY: Final = ("system", "cuda")
_VERSION: Final = "/v2/models/{model}/versions/{version}"
_NUMBER: Final = re.compile(r"[0-9]{1,19}\Z")

_log = structlog.get_logger("gateway.rest")


class Json(Response):
    """A JSON response by orjson."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return orjson.dumps(content)


class Routes:
    """The handlers; `app` is the application."""

    def __init__(self, service: Service, requests: Requests, access: Access, json: JsonPool, version: str) -> None:
        self._service = service
        self._requests = requests
        self._json = json
        self._version = version
        app = Starlette(
            routes=self._routes(),
            exception_handlers={
                FleetError: _fleet_error,
                HTTPException: _http_error,
                ClientDisconnect: _client_gone,
                Exception: _internal_error,
            },
        )
        app.router.redirect_slashes = False
        self.app: ASGIApp = _Guarded(app, access)

    def _routes(self) -> list[Route]:
        per_model = {"": self._metadata, "/ready": self._model_ready, "/config": self._config, "/stats": self._stats}
        return [
            Route("/v2", self._server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/v2/models/stats", self._stats),
            *[Route(base + suffix, handler) for base in (_MODEL, _VERSION) for suffix, handler in per_model.items()],
            *[Route(f"{base}/infer", _unreachable, methods=["POST"]) for base in (_MODEL, _VERSION)],
            Route("/v2/repository/index", self._index, methods=["POST"]),
            Route("/v2/repository/{repository}/index", self._named_repository, methods=["POST"]),
            Route("/v2/repository/models/{model}/{verb}", self._control, methods=["POST"]),
            Route("/v2/requests/{token:path}", self._request),
            Route("/v2/requests/{token:path}", self._cancel, methods=["DELETE"]),
            *[
                Route(f"/v2/{kind}sharedmemory/{{rest:path}}", _shared_memory, methods=["GET", "POST"])
                for kind in ("system", "cuda")
            ],
        ]

    # --- health and metadata ------------------------------------------------------------------------------------------

    async def _live(self, request: Request) -> Response:
        return Response()

    async def _ready(self, request: Request) -> Response:
        if self._service.draining:
            return Json({"error": "Server exiting"}, 503)
        return Response(status_code=400 if self._service.not_ready else 200)

    async def _server(self, request: Request) -> Response:
        return Json({"name": "penstock", "version": self._version, "extensions": EXTENSIONS})

    async def _metadata(self, request: Request) -> Response:
        model, version = _names(request)
        catalogue = self._service.catalogue
        await self._arrived(model, version)
        served = catalogue.resolve(model, version)
        versions = [version] if version else [s.version for s in catalogue.versions(model) if s.ready]
        return Json(statistics.metadata(served.config, versions))

    async def _model_ready(self, request: Request) -> Response:
        model, version = _names(request)
        try:
            self._service.resolve(model, version)
        except FleetError:
            self._service.catalogue.versions(model)  # an unknown model is 404
            if version:
                self._service.catalogue.get(model, version)
            return Json({"error": "Model version not ready"}, 400)
        return Response()

    async def _config(self, request: Request) -> Response:
        model, version = _names(request)
        await self._arrived(model, version)
        return Json(self._service.catalogue.resolve(model, version).config.to_json())

    async def _arrived(self, model: str, version: str) -> None:
        """Wait for a model that may still appear, as calls do."""
        service = self._service
        await service.arrivals.wait(model, version, service.clock() + service.settings.default_timeout)

    async def _stats(self, request: Request) -> Response:
        model, version = _names(request)
        try:
            per_worker = request.query_params.get("per_worker", "").lower() in {"1", "true"}
            return Json(await self._service.statistics(model, version, per_worker=per_worker))
        except NotFound:
            if version and any(s.model == model for s in self._service.catalogue.all()):
                raise InvalidArgument(f"requested model version is not available for model '{model}'") from None
            raise InvalidArgument(f"requested model '{model}' is not available") from None

    # --- repository ---------------------------------------------------------------------------------------------------

    async def _index(self, request: Request) -> Response:
        raw = await _small_body(request)
        try:
            asked = orjson.loads(raw) if raw.strip() else {}
        except orjson.JSONDecodeError as error:
            raise CodecError(f"failed to parse the request JSON buffer: {error}") from None
        if not isinstance(asked, dict) or not isinstance(asked.get("ready", False), bool):
            raise CodecError("the body must be a JSON object; 'ready' must be a boolean")
        if asked.get("repository_name"):
            raise Unsupported("'repository_name' specification is not supported")
        return Json(self._service.catalogue.index(ready_only=asked.get("ready", False)))

    async def _named_repository(self, request: Request) -> Response:
        raise Unsupported("'repository_name' specification is not supported")

    async def _control(self, request: Request) -> Response:
        if request.path_params["verb"] not in ("load", "unload"):
            raise HTTPException(404, "Not Found")
        raise Unsupported(
            "explicit model load / unload is not supported over HTTP: workers load what --model-repository and --load-model name"
        )

    # --- requests -----------------------------------------------------------------------------------------------------

    async def _request(self, request: Request) -> Response:
        status = await self._find(request, _wait(request))
        reply = status.reply
        if reply is None:
            return Json(_state(status), 202, {"retry-after": "1", "penstock-request-id": _field(status.id)})
        timing = bodies.timing(reply.timing, reply.woken).decode()
        headers = {"penstock-request-id": _field(status.id), "penstock-timing": timing}
        if reply.failure is not None:
            return Response(error_body(reply.failure.message), STATUS[reply.failure.code], headers, "application/json")
        raw = "application/octet-stream" in request.headers.get("accept", "")
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

    async def _render(self, reply: InferReply, binary: bodies.Binary) -> ResponseBody:
        """The answer's body; a large one is written by a JSON process."""
        settings = self._service.settings
        if bodies.json_bytes(reply, binary) * TEXT_PER_BYTE <= settings.json_offload_bytes:
            return bodies.render(reply, binary)
        return await self._json.render(reply, binary, self._service.clock() + settings.default_timeout)

    async def _cancel(self, request: Request) -> Response:
        status = await self._requests.cancel(request.path_params["token"], request.state.principal)
        return Json(_state(status), 200, {"penstock-request-id": _field(status.id)})


class _Guarded:
    """Authenticates every request but those for health."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            fields: Mapping[bytes, bytes] = dict(scope["headers"])
            try:
                is_open = scope["path"].startswith(_OPEN)
                scope.setdefault("state", {})["principal"] = "" if is_open else self._access.principal(fields)
            except FleetError as error:
                await _error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _names(request: Request) -> tuple[str, str]:
    """The model and version of the path; "" if it has none.

    Raises:
        HTTPException: 404; the version is not a number.
    """
    version = request.path_params.get("version")
    if version is None:
        return request.path_params.get("model", ""), ""
    if not _NUMBER.match(version):
        raise HTTPException(404, "Not Found")
    return request.path_params["model"], version.lstrip("0") or "0"


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


async def _small_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_PLAIN_BODY:
            raise TooLarge(f"the body of this request may have at most {MAX_PLAIN_BODY} bytes")
    return bytes(body)


async def _shared_memory(request: Request) -> Response:
    raise Unsupported("Client shared memory is disabled: a fleet's workers are other hosts")


async def _unreachable(request: Request) -> Response:
    """Never called: `connection.InferConnection` takes POST to infer. The route answers other methods with 405."""
    raise HTTPException(404, "Not Found")


def _error_response(error: FleetError) -> Response:
    return Response(error_body(error.message), STATUS[error.code], dict(error_headers(error)), "application/json")


async def _fleet_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, FleetError)
    return _error_response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Json({"error": error.detail}, error.status_code, error.headers)


async def _client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=STATUS[Code.CANCELLED])


async def _internal_error(request: Request, error: Exception) -> Response:
    _log.error("a request failed inside the gateway", path=request.url.path, exc_info=error)
    return _error_response(FleetError("internal error in the gateway; its log has the details", code=Code.INTERNAL))
