"""Triton's metrics for the whole fleet, from the totals in the result store, which are read for each scrape.

Every gateway exports the same numbers: take those of one, or their maximum, never their sum. Each worker exports its own part at
its own port. Labels are names and `metric_tags` from the catalogue only, so that callers cannot add series.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from gateway.catalogue.catalogue import Catalogue
from protocol.errors import FleetError
from protocol.messages import Heartbeat, ModelLoad
from protocol.model_stats import document, failures, first_responses
from protocol.ports import Results
from protocol.totals import Key

WITHIN: Final = 3.0
"""Seconds that a scrape waits for the store; then it gets the totals that were read last."""

_Document = Mapping[str, Any]
_COUNTERS: Final[tuple[tuple[str, str, Callable[[_Document], float]], ...]] = (
    ("nv_inference_request_success", "Successful requests; each counts 1, whatever its rows.", lambda d: d["inference_stats"]["success"]["count"]),  # noqa: E501
    ("nv_inference_count", "Inferences: rows of successful requests.", lambda d: d["inference_count"]),
    ("nv_inference_exec_count", "Executions: batches that ran.", lambda d: d["execution_count"]),
    ("nv_inference_request_duration_us", "Cumulative time of successful requests, from intake to answer.", lambda d: _us(d, "success")),  # noqa: E501
    ("nv_inference_queue_duration_us", "Cumulative queue time of successful requests.", lambda d: _us(d, "queue")),
    ("nv_inference_compute_input_duration_us", "Cumulative time of stacking inputs.", lambda d: _us(d, "compute_input")),
    ("nv_inference_compute_infer_duration_us", "Cumulative time of running the model.", lambda d: _us(d, "compute_infer")),
    ("nv_inference_compute_output_duration_us", "Cumulative time of making answers.", lambda d: _us(d, "compute_output")),
)  # fmt: skip
_CACHE: Final[tuple[tuple[str, str, Callable[[_Document], float]], ...]] = (
    ("nv_cache_num_hits_per_model", "Answers from the response cache.", lambda d: d["inference_stats"]["cache_hit"]["count"]),
    ("nv_cache_num_misses_per_model", "Requests that the response cache did not have.", lambda d: d["inference_stats"]["cache_miss"]["count"]),  # noqa: E501
    ("nv_cache_hit_duration_per_model", "Cumulative time of look-ups that found an answer, in microseconds.", lambda d: _us(d, "cache_hit")),  # noqa: E501
    ("nv_cache_miss_duration_per_model", "Cumulative time of look-ups and insertions of the others, in microseconds.", lambda d: _us(d, "cache_miss")),  # noqa: E501
)  # fmt: skip


def _us(of: _Document, name: str) -> float:
    ns: int = of["inference_stats"][name]["ns"]
    return ns / 1000


class FleetMetrics(Collector):
    """A collector of the given registry.

    Until `start`, and until the store has answered once, it exports nothing: zeros would look like a restart.

    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._live: list[Sequence[ModelLoad]] = []
        self._source: tuple[Catalogue, Results] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._read: dict[Key, dict[str, int]] = {}
        self._reading = threading.Lock()
        registry.register(self)

    def start(self, catalogue: Catalogue, results: Results) -> None:
        """Read from these, on the running event loop."""
        self._source = catalogue, results
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()

    def stop(self) -> None:
        """Read no more; what was read last stays."""
        self._loop = None

    def observe(self, heartbeats: Iterable[Heartbeat], since: float) -> None:
        """Note the heartbeats that are not from before `since`; how many requests wait there is summed up for each scrape."""
        self._live = [beat.models for beat in heartbeats if beat.at >= since]

    def _pending(self) -> collections.Counter[Key]:
        pending: collections.Counter[Key] = collections.Counter()
        for models in self._live:
            for load in models:
                if isinstance(load.queued_requests, int):
                    pending[load.model, load.version] += load.queued_requests
        return pending

    def describe(self) -> Iterable[Metric]:
        """Nothing: naming the families would require a scrape before there is anything to scrape."""
        return ()

    async def refresh(self) -> None:
        """Read the totals of all versions.

        Raises:
            Unavailable: the store cannot be reached; the former ones stay.
        """
        if self._source is not None:
            catalogue, results = self._source
            keys = [(served.model, served.version) for served in catalogue.all()]
            self._read = dict(zip(keys, await results.totals(keys), strict=True))

    def collect(self) -> Iterator[Metric]:
        """All families. From a thread of its own, as the metrics port scrapes, they are read anew."""
        self._refresh()
        totals, tags = self._read, self._tags()
        rows = [(key, of, document(of), tags[key]) for key, of in totals.items() if key in tags]
        names = ["model", "version", *sorted({name for *_, labels in rows for name in labels})]

        def values(key: Key, labels: Mapping[str, str]) -> list[str]:
            return [*key, *[labels.get(name, "") for name in names[2:]]]

        counters = [*_COUNTERS, *(_CACHE if any({"hit", "miss"} & of.keys() for of in totals.values()) else ())]
        for name, text, read in counters if rows else ():
            # Not a counter family: that would append `_total` to Triton's names, which dashboards use without it.
            family = UnknownMetricFamily(name, text, labels=names)
            for key, _, shown, labels in rows:
                family.add_metric(values(key, labels), read(shown))
            yield family
        if not rows:
            return
        failed = UnknownMetricFamily(
            "nv_inference_request_failure", "Failed requests by reason.", labels=[*names, "reason"]
        )
        pending = GaugeMetricFamily(
            "nv_inference_pending_request_count", "Requests that wait in workers to be executed.", labels=names
        )
        first = HistogramMetricFamily(
            "nv_inference_first_response_histogram_ms",
            "Time from intake to the answer of successful requests.",
            labels=names,
        )
        waiting = self._pending()
        for key, of, _, labels in rows:
            mine = values(key, labels)
            for reason, count in failures(of).items():
                failed.add_metric([*mine, reason.value], count)
            pending.add_metric(mine, waiting[key])
            first.add_metric(mine, *first_responses(of))
        yield from (failed, pending, first)

    def _tags(self) -> dict[Key, dict[str, str]]:
        if self._source is None:
            return {}
        return {
            (served.model, served.version): {f"_{name}": value for name, value in served.config.metric_tags.items()}
            for served in self._source[0].all()
        }

    def _refresh(self) -> None:
        loop = self._loop
        if loop is None or loop.is_closed() or threading.get_ident() == self._thread:
            return
        with self._reading:
            reading = asyncio.run_coroutine_threadsafe(self.refresh(), loop)
            try:
                reading.result(WITHIN)
            except (TimeoutError, concurrent.futures.CancelledError, FleetError):
                reading.cancel()
