"""The model repository over HTTP: index, load, unload and status.

POST /v2/repository/index                    {"ready": true}
POST /v2/repository/models/{model}/load      {"parameters": {"config": "…", "file:1/model.onnx": "<base64>", "replicas": 2, …}}
POST /v2/repository/models/{model}/unload    {"parameters": {"unload_dependents": true}}
GET  /v2/repository/models/{model}/status
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.admission.budget import Share
from gateway.calls.service import Service
from gateway.repository.control import RepositoryControl
from gateway.repository.parameters import parse_parameters
from gateway.rest.plain import Json, parse_json, whole_body
from protocol.errors import CodecError, InvalidArgument, Unsupported, quoted

_MODEL = "/v2/repository/models/{model}"


class RepositoryRoutes:
    """The handlers.

    Args:
        service: counts the bytes of load calls.
        repository: loads and unloads.
    """

    def __init__(self, service: Service, repository: RepositoryControl) -> None:
        self._service = service
        self._repository = repository

    def routes(self) -> list[Route]:
        """All routes."""
        return [
            Route("/v2/repository/index", self._index, methods=["POST"]),
            Route("/v2/repository/{repository}/index", _named_repository, methods=["POST"]),
            Route(f"{_MODEL}/load", self._load, methods=["POST"]),
            Route(f"{_MODEL}/unload", self._unload, methods=["POST"]),
            Route(f"{_MODEL}/status", self._status),
            Route("/v2/repository/{repository}/models/{model}/load", _named_repository, methods=["POST"]),
            Route("/v2/repository/{repository}/models/{model}/unload", _named_repository, methods=["POST"]),
        ]

    async def _index(self, request: Request) -> Response:
        asked = _document(await whole_body(request))
        if not isinstance(asked, dict) or not isinstance(asked.get("ready", False), bool):
            raise CodecError("the body must be a JSON object; 'ready' must be a boolean")
        if asked.get("repository_name"):
            raise Unsupported("'repository_name' specification is not supported")
        return Json(self._repository.index(asked.get("ready", False)))

    async def _load(self, request: Request) -> Response:
        share = Share(self._service.budgets.whole)
        try:
            raw = await whole_body(request, self._service.settings.max_body_bytes, share)
            config, encoded, options = parse_parameters(_parameters(raw))
            files = await asyncio.to_thread(_decoded, encoded) if encoded else {}
            del raw, encoded  # free them while the call waits
            await self._repository.load(request.path_params["model"], config, files, request.state.principal, options)
        finally:
            share.free()
        return Response()

    async def _unload(self, request: Request) -> Response:
        parameters = _parameters(await whole_body(request))
        dependents = isinstance(parameters, dict) and parameters.get("unload_dependents") is True
        await self._repository.unload(request.path_params["model"], dependents, request.state.principal)
        return Response()

    async def _status(self, request: Request) -> Response:
        return Json(self._repository.status(request.path_params["model"]))


async def _named_repository(request: Request) -> Response:
    raise Unsupported("'repository_name' specification is not supported")


def _parameters(raw: bytes) -> object:
    asked = _document(raw)
    if not isinstance(asked, dict):
        raise CodecError("the body must be a JSON object with 'parameters'")
    return asked.get("parameters", {})


def _document(raw: bytes) -> Any:
    """The body's document; an empty one without a body."""
    return parse_json(raw) if raw.strip() else {}


def _decoded(encoded: dict[str, str]) -> dict[str, bytes]:
    files = {}
    for path, text in encoded.items():
        try:
            files[path] = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidArgument(f"parameter {quoted('file:' + path)} is not base64: {error}") from None
    return files
