"""Triton's routes for shared memory: register, status, unregister. CUDA's are refused.

POST /v2/systemsharedmemory/region/{name}/register    {"key": "/name", "offset": 0, "byte_size": 64}
GET  /v2/systemsharedmemory[/region/{name}]/status
POST /v2/systemsharedmemory[/region/{name}]/unregister
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.rest.plain import Json, json_object
from gateway.shared_memory import Regions
from protocol.errors import CodecError, InvalidArgument, NotFound, quoted

_SYSTEM: Final = "/v2/systemsharedmemory"
_CUDA: Final = "/v2/cudasharedmemory"
_REGION: Final = "/region/{region}"


def shared_memory_routes(regions: Regions) -> list[Route]:
    """The routes."""

    async def status(request: Request) -> Response:
        return Json([dataclasses.asdict(region) for region in regions.status(request.path_params.get("region", ""))])

    async def register(request: Request) -> Response:
        regions.check_allowed()
        asked = await json_object(request)
        regions.register(
            request.path_params["region"], _key(asked), _size(asked, "offset", 0), _size(asked, "byte_size", None)
        )
        return _done()

    async def nameless(request: Request) -> Response:
        regions.check_allowed()
        raise InvalidArgument("'region name' is necessary to register system shared memory region")

    async def unregister(request: Request) -> Response:
        regions.unregister(request.path_params.get("region", ""))
        return _done()

    async def cuda_status(request: Request) -> Response:
        regions.check_allowed()
        name = request.path_params.get("region")
        if name:
            raise NotFound(f"Unable to find cuda shared memory region: {quoted(name)}")
        return Json([])

    async def cuda_register(request: Request) -> Response:
        regions.check_allowed()
        raise regions.cuda_refused()

    async def cuda_unregister(request: Request) -> Response:
        regions.check_allowed()
        return _done()

    return [
        *[Route(f"{_SYSTEM}{part}/status", status) for part in ("", _REGION)],
        Route(f"{_SYSTEM}{_REGION}/register", register, methods=["POST"]),
        Route(f"{_SYSTEM}/register", nameless, methods=["POST"]),
        *[Route(f"{_SYSTEM}{part}/unregister", unregister, methods=["POST"]) for part in ("", _REGION)],
        *[Route(f"{_CUDA}{part}/status", cuda_status) for part in ("", _REGION)],
        *[Route(f"{_CUDA}{part}/register", cuda_register, methods=["POST"]) for part in ("", _REGION)],
        *[Route(f"{_CUDA}{part}/unregister", cuda_unregister, methods=["POST"]) for part in ("", _REGION)],
    ]


def _done() -> Response:
    return Response(media_type="application/json")


def _key(asked: dict[str, Any]) -> str:
    if "key" not in asked:
        raise InvalidArgument("Shared memory register request has no 'key' field")
    key = asked["key"]
    if type(key) is not str:
        raise CodecError(f"'key' must be a string, not {quoted(key)}")
    return key


def _size(asked: dict[str, Any], name: str, default: int | None) -> int:
    if name not in asked and default is None:
        raise InvalidArgument(f"Shared memory register request has no '{name}' field")
    number = asked.get(name, default)
    if type(number) is not int or number < 0:
        raise CodecError(f"'{name}' must be an unsigned integer, not {quoted(number)}")
    return number
