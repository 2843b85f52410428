"""All routes but those of calls, as a Starlette application: health, metadata, configuration, statistics, index; the rest is in
files of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

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
from gateway.durable.requests import Requests
from gateway.repository.aliases import AliasChanges
from gateway.repository.control import RepositoryControl
from gateway.rest import openapi
from gateway.rest.access import Access
from gateway.rest.alias_routes import AliasRoutes
from gateway.rest.cross_origin import CrossOrigin
from gateway.rest.errors import STATUS, error_body, error_headers
from gateway.rest.fleet_routes import fleet_routes
from gateway.rest.json_pool import JsonPool
from gateway.rest.page import Page
from gateway.rest.plain import Json
from gateway.rest.repository_routes import RepositoryRoutes
from gateway.rest.request_routes import RequestRoutes
from gateway.rest.routing import GENERATE, GENERATE_STREAM, INFER
from gateway.rest.settings_routes import settings_routes
from gateway.rest.shared_memory_routes import shared_memory_routes
from gateway.restrictions import path_category
from protocol.errors import Code, FleetError, InvalidArgument, NotFound

EXTENSIONS: Final = (
    "binary_tensor_data", "classification", "logging", "model_configuration", "model_repository",
    "model_repository(unload_dependents)", "parameters", "schedule_policy", "statistics", "trace",
)  # fmt: skip
_OPEN: Final = "/v2/health/"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""
_MODEL: Final = "/v2/models/{model}"
_MEMORY: Final = "system_shared_memory"
_VERSION: Final = "/v2/models/{model}/versions/{version}"
_NUMBER: Final = re.compile(r"[0-9]{1,19}\Z")

_log = structlog.get_logger("gateway.rest")


class Routes:
    """The handlers.

    Attributes:
        app: the application.
        paths: of the routes, with their methods.
    """

    def __init__(
        self,
        service: Service,
        repository: RepositoryControl,
        requests: Requests,
        access: Access,
        json: JsonPool,
        version: str,
    ) -> None:
        self._service = service
        self._repository = repository
        self._access = access
        self._request_routes = RequestRoutes(service, requests, json).routes()
        self._version = version
        self._document = orjson.dumps(openapi.document(version))
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
        self.paths = [(route.path, route.methods or set()) for route in app.routes if isinstance(route, Route)]
        guarded: ASGIApp = _Guarded(app, access)
        guarded = CrossOrigin(guarded, access.origins) if access.origins.open else guarded
        self.app: ASGIApp = Page(guarded) if service.settings.page else guarded

    def _routes(self) -> list[Route]:
        per_model = {"": self._metadata, "/ready": self._model_ready, "/config": self._config, "/stats": self._stats}
        service = self._service
        return [
            Route("/openapi.json", self._openapi),
            Route("/v2", self._server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/v2/models/stats", self._stats),
            *fleet_routes(service, self._repository, self._access.restrictions),
            *[Route(base + suffix, handler) for base in (_MODEL, _VERSION) for suffix, handler in per_model.items()],
            *[
                Route(f"{base}/{verb}", _unreachable, methods=["POST"])
                for base in (_MODEL, _VERSION)
                for verb in (INFER, GENERATE, GENERATE_STREAM)
            ],
            *RepositoryRoutes(service, self._repository).routes(),
            *AliasRoutes(AliasChanges(service)).routes(),
            *self._request_routes,
            *shared_memory_routes(service.regions),
            *settings_routes(service.trace_settings, service.log_settings),
        ]

    # --- health and metadata ------------------------------------------------------------------------------------------

    async def _live(self, request: Request) -> Response:
        return Json(
            {"live": True}
        )  # as the Open Inference Protocol says, and KServe's client reads; Triton's body is empty

    async def _ready(self, request: Request) -> Response:
        if self._service.draining:
            return Json({"error": "Server exiting"}, 503)
        return Response(status_code=400) if self._service.not_ready else Json({"ready": True})

    async def _server(self, request: Request) -> Response:
        extensions = [*EXTENSIONS, *([_MEMORY] if self._service.regions.allowed else [])]
        return Json({"name": "penstock", "version": self._version, "extensions": sorted(extensions)})

    async def _openapi(self, request: Request) -> Response:
        return Response(self._document, media_type="application/json")

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
            served = self._service.resolve(model, version)
        except FleetError:
            self._service.catalogue.versions(model)  # an unknown model is 404
            if version:
                self._service.catalogue.get(model, version)
            return Json({"error": "Model version not ready"}, 400)
        return Json({"error": served.unready}, 503) if served.unready else Response()

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


class _Guarded:
    """Authenticates every request but those for health, and checks restrictions of all, and which pages change something."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            fields: Mapping[bytes, bytes] = dict(scope["headers"])
            hosts = self._access.hosts
            refused = None if hosts is None or scope["method"] in _SAFE else hosts.changing_fault(fields)
            if refused is not None:
                await Json({"error": refused[1]}, refused[0])(scope, receive, send)
                return
            try:
                is_open = scope["path"].startswith(_OPEN)
                scope.setdefault("state", {})["principal"] = "" if is_open else self._access.principal(fields)
                if not self._access.restrictions.open:
                    self._access.restrictions.check(path_category(scope["path"]), fields)
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


async def _unreachable(request: Request) -> Response:
    """Never called: `connection.InferConnection` takes POST to these. The routes answer other methods with 405."""
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
