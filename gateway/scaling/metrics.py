"""The gauges of scaling, read anew for each scrape.

Every gateway and scaler exports the same numbers: take those of one, or their maximum, never their sum. Labels are names from the
catalogue only. A number that is not known has no sample.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.scaling.view import ScalingView
from protocol.errors import FleetError

WITHIN: Final = 3.0
"""Seconds that a scrape waits for the logs; then it gets what was known."""
_LABELS: Final = ("model", "version", "lane")


class ScalingMetrics(Collector):
    """A collector of the given registry; until `start` it exports nothing."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._view: ScalingView | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        registry.register(self)

    def start(self, view: ScalingView) -> None:
        """Read from this view, on the running event loop."""
        self._view = view
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()

    def stop(self) -> None:
        """Read no more; what is known stays."""
        self._loop = None

    def describe(self) -> Iterable[Metric]:
        """Nothing: naming the families would require a scrape before there is anything to scrape."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families. From a thread of its own, as the metrics port scrapes, the logs are read anew."""
        self._refresh()
        if self._view is not None:
            yield from _families(self._view)

    def _refresh(self) -> None:
        loop, view = self._loop, self._view
        if loop is None or view is None or loop.is_closed() or threading.get_ident() == self._thread:
            return
        reading = asyncio.run_coroutine_threadsafe(view.refresh(), loop)
        try:
            reading.result(WITHIN)
        except (TimeoutError, concurrent.futures.CancelledError, FleetError):
            reading.cancel()


def _families(view: ScalingView) -> tuple[Metric, ...]:
    requests = GaugeMetricFamily("penstock_backlog_requests", "Unanswered requests.", labels=_LABELS)
    rows = GaugeMetricFamily("penstock_backlog_rows", "Rows of the unanswered requests.", labels=_LABELS)
    age = GaugeMetricFamily(
        "penstock_oldest_request_age_seconds", "Time since the oldest unanswered request was published.", labels=_LABELS
    )
    drain = GaugeMetricFamily(
        "penstock_time_to_drain_seconds", "Time until the ready workers have run the backlog.", labels=_LABELS
    )
    wanted = GaugeMetricFamily("penstock_wanted_workers", "Workers that the work needs.", labels=_LABELS[:2])
    ready = GaugeMetricFamily("penstock_ready_workers", "Live workers that serve the version.", labels=_LABELS[:2])
    for lane in view.lanes():
        key = lane.model, lane.version
        labels = [*key, lane.lane.value]
        requests.add_metric(labels, lane.backlog.requests)
        rows.add_metric(labels, lane.backlog.rows)
        if lane.backlog.oldest_age is not None:
            age.add_metric(labels, lane.backlog.oldest_age)
        if lane.drain is not None:
            drain.add_metric(labels, lane.drain)
        if not wanted.samples or wanted.samples[-1].labels != dict(zip(_LABELS, key, strict=False)):
            wanted.add_metric(key, lane.wanted)
            ready.add_metric(key, lane.ready)
    return requests, rows, age, drain, wanted, ready
