"""The routes of aliases, below `/v2/repository/models/{model}/aliases`.

    GET  …/aliases                       all aliases of the model
    PUT  …/aliases                       {"prod": ROUTE, …}: several in one step
    GET, PUT, DELETE  …/aliases/{alias}  one ROUTE: {"versions": {"3": 90, "4": 10}, "shadow": {"version": "4", "share": 0.1}}
    POST …/aliases/rollback              back to the routes before the last change
    GET  /v2/repository/aliases          those of all models

The alias of calls without a version is spelled `default`.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.aliases import routes
from gateway.repository.aliases import AliasChanges
from gateway.rest.plain import Json, parse_json, whole_body
from protocol.errors import InvalidArgument, quoted

_ALL: Final = "/v2/repository/models/{model}/aliases"


class AliasRoutes:
    """The handlers.

    Args:
        changes: reads and writes the aliases.
    """

    def __init__(self, changes: AliasChanges) -> None:
        self._changes = changes

    def routes(self) -> list[Route]:
        """All routes."""
        return [
            Route("/v2/repository/aliases", self._every),
            Route(_ALL, self._list),
            Route(_ALL, self._set_all, methods=["PUT"]),
            Route(f"{_ALL}/rollback", self._rollback, methods=["POST"]),
            Route(f"{_ALL}/{{alias}}", self._get),
            Route(f"{_ALL}/{{alias}}", self._set, methods=["PUT"]),
            Route(f"{_ALL}/{{alias}}", self._delete, methods=["DELETE"]),
        ]

    async def _every(self, request: Request) -> Response:
        return Json(self._changes.every())

    async def _list(self, request: Request) -> Response:
        return Json(self._changes.of(request.path_params["model"]))

    async def _get(self, request: Request) -> Response:
        model, alias = _names(request)
        return Json(routes.route_document(self._changes.route(model, alias)))

    async def _set(self, request: Request) -> Response:
        model, alias = _names(request)
        route = routes.parse_route(parse_json(await whole_body(request)))
        return Json(await self._changes.set(model, {alias: route}, request.state.principal))

    async def _set_all(self, request: Request) -> Response:
        document = parse_json(await whole_body(request))
        if not isinstance(document, dict) or not document:
            raise InvalidArgument(f"the body must be an object of routes by alias, not {quoted(document)}")
        if len(document) > routes.MAX_ALIASES:
            raise InvalidArgument(f"the body has {len(document)} aliases; at most {routes.MAX_ALIASES} may be")
        changed = {routes.alias_of(alias): routes.parse_route(route) for alias, route in document.items()}
        return Json(await self._changes.set(request.path_params["model"], changed, request.state.principal))

    async def _delete(self, request: Request) -> Response:
        model, alias = _names(request)
        return Json(await self._changes.delete(model, alias, request.state.principal))

    async def _rollback(self, request: Request) -> Response:
        return Json(await self._changes.rollback(request.path_params["model"], request.state.principal))


def _names(request: Request) -> tuple[str, str]:
    return request.path_params["model"], routes.alias_of(request.path_params["alias"])
