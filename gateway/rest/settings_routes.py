"""Triton's routes for trace and log settings.

GET, POST /v2/trace/setting, /v2/models/{model}/trace/setting    {"trace_rate": "5"}
GET, POST /v2/logging                                            {"log_verbose_level": 1}
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.rest.plain import Json, json_object
from gateway.server_settings import LogSettings, TraceSettings


def settings_routes(trace: TraceSettings, log: LogSettings) -> list[Route]:
    """The routes."""

    async def trace_setting(request: Request) -> Response:
        model = request.path_params.get("model", "")
        if request.method == "POST":
            return Json(trace.update(model, await json_object(request)))
        return Json(trace.get(model))

    async def logging(request: Request) -> Response:
        return Json(log.update(await json_object(request)) if request.method == "POST" else log.get())

    both = ["GET", "POST"]
    return [
        *[Route(f"/v2{of}/trace/setting", trace_setting, methods=both) for of in ("", "/models/{model}")],
        Route("/v2/logging", logging, methods=both),
    ]
