"""The gateway's metrics. Counters are plain integers; Prometheus' objects are created per scrape.

Workers count `nv_inference_*`. Labels are names from the catalogue only, so that callers cannot add series.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.aliases.shadow_counts import ShadowCounts
from gateway.counters import Buckets, Counters

_RECORDS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


class GatewayMetrics(Collector):
    """All counters of a gateway, as a collector of the given registry.

    Attributes:
        counters: of interactive calls, by (model, version).
        batch_counters: of calls in the batch lane, likewise.
        rejections: calls refused before they were published, by error code.
        claims: keyed and asynchronous calls, by the state of their claim.
        cancellations: calls cancelled by their caller or its disconnect.
        shadows: copied calls of aliases with a shadow version.
        publish_seconds, publish_records: per publish of a group.
        wake_age: seconds between a worker's emit and the gateway's delivery.
        swept: answers found by a sweep without a wake-up; should stay near 0.
        restarts: restarts of failed background loops, by name.
        inflight, batch_inflight, queued_bytes, held_bytes, store_used, ready, cut: called per scrape.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.counters: dict[tuple[str, str], Counters] = {}
        self.batch_counters: dict[tuple[str, str], Counters] = collections.defaultdict(Counters)
        self.rejections: dict[str, int] = {}
        self.claims: dict[str, int] = {}
        self.restarts: dict[str, int] = {}
        self.cancellations = 0
        self.shadows = ShadowCounts()
        self.publish_seconds = Buckets()
        self.publish_records = Buckets(_RECORDS)
        self.wake_age = Buckets()
        self.swept = 0
        self.inflight: Callable[[], float] = lambda: 0
        self.batch_inflight: Callable[[], float] = lambda: 0
        self.queued_bytes: Callable[[], float] = lambda: 0
        self.held_bytes: Callable[[], float] = lambda: 0
        self.store_used: Callable[[], float] = lambda: 0
        self.ready: Callable[[], bool] = lambda: False
        self.cut: Callable[[], float] = lambda: 0
        registry.register(self)

    def refused(self, code: str) -> None:
        """Count a refused call."""
        self.rejections[code] = self.rejections.get(code, 0) + 1

    def collect(self) -> Iterable[Metric]:
        """All metric families with their current values."""
        yield from self._requests()
        yield from _answers("batch_request", "calls in the batch lane", self.batch_counters)
        yield from _shadows(self.shadows)
        yield _counter(
            "rejections", "Calls refused before they were published, by error code.", "code", self.rejections
        )
        yield _counter("claims", "Keyed and asynchronous calls, by the state of their claim.", "state", self.claims)
        yield _counter("task_restarts", "Background tasks that failed and were started again.", "task", self.restarts)
        yield CounterMetricFamily(
            "penstock_gateway_cancellations", "Calls cancelled by their caller or its disconnect.", self.cancellations
        )
        yield CounterMetricFamily(
            "penstock_gateway_swept_answers", "Answers found by a sweep that no wake-up had brought.", self.swept
        )
        yield _histogram("publish_seconds", "Time until a group of records was acknowledged.", self.publish_seconds)
        yield _histogram("publish_records", "Records per published group.", self.publish_records)
        yield _histogram("wake_age_seconds", "Time from a worker's emit to the gateway's delivery.", self.wake_age)
        yield GaugeMetricFamily("penstock_gateway_inflight", "Calls accepted and not yet answered.", self.inflight())
        yield GaugeMetricFamily(
            "penstock_gateway_batch_inflight", "Those of them that are in the batch lane.", self.batch_inflight()
        )
        yield GaugeMetricFamily(
            "penstock_gateway_queued_bytes", "Bytes that admission counts now.", self.queued_bytes()
        )
        yield GaugeMetricFamily(
            "penstock_gateway_held_bytes",
            "Bytes held of requests and answers of all kinds; max_queued_bytes is the limit.",
            self.held_bytes(),
        )
        yield GaugeMetricFamily(
            "penstock_gateway_store_used_ratio",
            "Used share of the result store's memory, 0 to 1; calls are refused from full_limit.",
            self.store_used(),
        )
        yield CounterMetricFamily(
            "penstock_gateway_cut_scrapes", "Connections to the metrics port that were ended unanswered.", self.cut()
        )
        yield GaugeMetricFamily("penstock_gateway_ready", "1 while /v2/health/ready answers 200.", float(self.ready()))

    def _requests(self) -> Iterable[Metric]:
        digests = GaugeMetricFamily(
            "penstock_gateway_model_digests",
            "Different sets of files that live workers serve under one version; with more than 1, answers may come from any.",
            labels=("model", "version"),
        )
        for (model, version), counters in list(self.counters.items()):
            digests.add_metric((model, version), counters.digests)
        return *_answers("request", "inference calls", self.counters), digests


def _answers(name: str, what: str, table: Mapping[tuple[str, str], Counters]) -> tuple[Metric, Metric]:
    """Answers and latencies by model version."""
    requests = CounterMetricFamily(
        f"penstock_gateway_{name}s",
        f"Answered {what}, by model version and code.",
        labels=("model", "version", "code"),
    )
    seconds = HistogramMetricFamily(
        f"penstock_gateway_{name}_seconds",
        "Time from a call's last byte to its answer.",
        labels=("model", "version"),
    )
    for key, counters in list(table.items()):
        for code, count in list(counters.codes.items()):
            requests.add_metric((*key, code), count)
        if counters.codes:
            seconds.add_metric(key, counters.seconds.cumulative(), counters.seconds.total)
    return requests, seconds


def _shadows(counts: ShadowCounts) -> Iterable[Metric]:
    """Compared answers by versions, and how far their numbers differed."""
    labels = ("model", "version", "shadow")
    answers = CounterMetricFamily(
        "penstock_gateway_shadow_answers",
        "Calls copied to a shadow version, by how its answer agreed with the caller's.",
        labels=(*labels, "result"),
    )
    for (pair, result), count in list(counts.results.items()):
        answers.add_metric((*pair, result), count)
    differences = HistogramMetricFamily(
        "penstock_gateway_shadow_difference",
        "Largest difference of two answers' numbers, absolute and relative to the caller's.",
        labels=(*labels, "kind"),
    )
    for kind, table in (("absolute", counts.absolute), ("relative", counts.relative)):
        for pair, buckets in list(table.items()):
            differences.add_metric((*pair, kind), buckets.cumulative(), buckets.total)
    return answers, differences


def _counter(name: str, text: str, label: str, counts: dict[str, int]) -> Metric:
    family = CounterMetricFamily(f"penstock_gateway_{name}", text, labels=(label,))
    for key, count in list(counts.items()):
        family.add_metric((key,), count)
    return family


def _histogram(name: str, text: str, buckets: Buckets) -> Metric:
    family = HistogramMetricFamily(f"penstock_gateway_{name}", text)
    family.add_metric((), buckets.cumulative(), buckets.total)
    return family
