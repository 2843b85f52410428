"""The names of all metrics that gateways, workers and scalers export, taken from their collectors."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from gateway.metrics import GatewayMetrics
from gateway.scaling import metrics as scaling
from penstock.processes.metrics import SumCollector
from workers import devices
from workers import metrics as worker
from workers.retry import Retry
from workers.serving.serving import Serving


class _NoLanes:
    def lanes(self) -> list[object]:
        """Of a fleet without models."""
        return []


class _NoDevices:
    gpus = ()

    def collect(self) -> Iterable[Metric]:
        """Nothing; `names` reads the source."""
        return ()


def families() -> list[Metric]:
    """All families, without samples."""
    registry = CollectorRegistry()
    servings: list[Serving] = []
    of_worker = worker.WorkerMetrics(CollectorRegistry(), lambda: servings, Retry(), _NoDevices())  # type: ignore[arg-type]
    return [
        *GatewayMetrics(registry).collect(),
        *SumCollector(CollectorRegistry(), 1).collect(),
        *scaling._families(_NoLanes()),  # type: ignore[arg-type]
        *of_worker.collect(),
    ]


def names() -> set[str]:
    """As they are scraped: counters end with `_total`, histograms stand without their suffixes."""
    found = {f"{each.name}_total" if each.type == "counter" else each.name for each in families()}
    return (
        found | {name for name, *_ in worker._NV_CACHE} | set(re.findall(r'"(nv_[a-z_]+)"', inspect.getsource(devices)))
    )
