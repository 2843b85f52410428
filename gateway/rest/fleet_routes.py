"""Routes about the fleet as a whole, and the pointer to the metrics.

GET /v2/fleet/models                       every model version, and the workers of the last minute
GET /v2/fleet/scaling?model=M&version=V    backlogs and wanted workers
GET /metrics                               404, with the address of the metrics
"""

from __future__ import annotations

import re
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.calls.service import Service
from gateway.catalogue import overview
from gateway.repository.control import RepositoryControl
from gateway.rest.plain import Json
from gateway.restrictions import Restrictions
from gateway.scaling import report
from protocol.errors import InvalidArgument, NotFound, quoted

_NUMBER: Final = re.compile(r"[0-9]{1,19}\Z")


def fleet_routes(service: Service, repository: RepositoryControl, restrictions: Restrictions) -> list[Route]:
    """The routes."""

    async def models(request: Request) -> Response:
        """Every version with its signature and totals, and the workers of the last minute; half a second old at most."""
        fields = dict(request.headers.raw)
        for category in ("metadata", "model-repository"):  # it also tells what their routes tell
            restrictions.check(category, fields)
        served = {(each.model, each.version): each for each in service.catalogue.all()}
        keys = list(served)
        totals = dict(zip(keys, await service.transport.results.totals(keys), strict=True)) if keys else {}
        known = overview.document(repository.index(), served, totals, repository.lately(), service.clock())
        return Json({**known, "metrics": service.metrics_at, "problem": service.not_ready})

    async def scaling(request: Request) -> Response:
        """Backlogs and wanted workers of all versions, or one flat object about a model or one of its versions."""
        view, asked = service.scaling, request.query_params
        model, version = asked.get("model", ""), asked.get("version", "")
        if version and (not model or not _NUMBER.match(version)):
            raise InvalidArgument(f"version {quoted(version)} must be a number, and needs a model as well")
        await view.refresh()
        lanes = view.lanes(model, version.lstrip("0") or version)
        if not model:
            return Json(report.document(lanes))
        ready, wanted = view.workers(lanes)
        return Json(report.summary(model, version, lanes, ready, wanted))

    async def metrics(request: Request) -> Response:
        """No redirect: the metrics' address is often one that only the gateway's own machine reaches, and a scrape that ends up
        elsewhere than its configuration says is hard to find."""
        if not service.metrics_at:
            raise NotFound("this gateway serves no metrics: it runs without a metrics port (--metrics-port)")
        raise NotFound(
            f"metrics are not on this port; they are at http://{service.metrics_at}/metrics (--metrics-host, --metrics-port)"
        )

    return [
        Route("/v2/fleet/models", models),
        Route("/v2/fleet/scaling", scaling),
        Route("/metrics", metrics),
    ]
