"""The worker's metrics. Counters are plain integers (`statistics`); Prometheus's objects are made at each scrape.

`nv_*` have Triton's names and meanings, except that requests rejected at a full queue count as failed; they are this worker's own
part, since it loaded the version (gateways export the fleet's). `penstock_worker_*` are ours. Labels are a model's name, its
version and its `metric_tags`, so callers cannot add series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector

from workers.devices import Devices
from workers.retry import Retry
from workers.serving.serving import Serving
from workers.statistics import Histogram, ModelStatistics

_MICROSECONDS: Final = 1e6

_Read = Callable[[ModelStatistics], float]

_NV_CACHE: Final[tuple[tuple[str, str, _Read], ...]] = (
    ("nv_cache_num_hits_per_model", "Answers from the response cache.", lambda s: s.cache_hit.count),
    ("nv_cache_num_misses_per_model", "Requests that the response cache did not have.", lambda s: s.cache_miss.count),
    ("nv_cache_hit_duration_per_model", "Cumulative time of look-ups that found an answer, in microseconds.", lambda s: s.cache_hit.seconds * _MICROSECONDS),  # noqa: E501
    ("nv_cache_miss_duration_per_model", "Cumulative time of look-ups and insertions of the others, in microseconds.", lambda s: s.cache_miss.seconds * _MICROSECONDS),  # noqa: E501
)  # fmt: skip

_NV_COUNTERS: Final[tuple[tuple[str, str, _Read], ...]] = (
    ("nv_inference_request_success", "Successful requests; each counts 1, whatever its rows.", lambda s: s.success.count),
    ("nv_inference_count", "Inferences: rows of successful requests.", lambda s: s.inference_count),
    ("nv_inference_exec_count", "Executions: batches that ran.", lambda s: s.execution_count),
    ("nv_inference_request_duration_us", "Cumulative time of successful requests, from intake to answer.", lambda s: s.success.seconds * _MICROSECONDS),  # noqa: E501
    ("nv_inference_queue_duration_us", "Cumulative queue time of successful requests.", lambda s: s.queue.seconds * _MICROSECONDS),
    ("nv_inference_compute_input_duration_us", "Cumulative time of stacking inputs.", lambda s: s.compute_input.seconds * _MICROSECONDS),  # noqa: E501
    ("nv_inference_compute_infer_duration_us", "Cumulative time of running the model.", lambda s: s.compute_infer.seconds * _MICROSECONDS),  # noqa: E501
    ("nv_inference_compute_output_duration_us", "Cumulative time of making answers.", lambda s: s.compute_output.seconds * _MICROSECONDS),  # noqa: E501
)  # fmt: skip

_COUNTERS: Final[tuple[tuple[str, str, _Read], ...]] = (
    ("redeliveries", "Requests begun again after an earlier attempt.", lambda s: s.redeliveries),
    ("already_answered", "Redelivered requests that had their answer and were not run.", lambda s: s.already_answered),
    ("cancellations", "Requests answered CANCELLED without having run.", lambda s: s.cancellations),
    ("instance_deaths", "Runs in which the instance's process died or was killed as hung.", lambda s: s.deaths),
    (
        "reruns",
        "Parts of batches that were run on their own: to find a culprit, or because memory was short.",
        lambda s: s.reruns,
    ),
    ("batch_lane_records", "Records of the batch lane that have their outputs.", lambda s: s.lane.records),
    ("batch_lane_executions", "Batches that held only rows of the batch lane.", lambda s: s.lane.executions),
    ("batch_lane_rows", "Rows that were put in those batches.", lambda s: s.lane.rows),
    (
        "batch_lane_topped_up_rows",
        "Rows of the batch lane that were put beside interactive requests.",
        lambda s: s.lane.topped_up_rows,
    ),
    ("lost_records", "Records that retention deleted before they were read.", lambda s: s.lost),
)

_LABELLED: Final[tuple[tuple[str, str, str, Callable[[ModelStatistics], Mapping[str, int]]], ...]] = (
    ("batches", "Batches by the reason of their release.", "reason", lambda s: s.releases),
    ("rejections", "Requests that were not queued, by reason.", "reason", lambda s: s.rejections),
    ("dead_letters", "Records moved to the dead letters, by reason.", "reason", lambda s: s.dead_letters),
)

_HISTOGRAMS: Final[tuple[tuple[str, str, Callable[[ModelStatistics], Histogram]], ...]] = (
    ("batch_rows", "Rows per executed batch.", lambda s: s.batch_rows),
    ("queue_seconds", "Time of a successful request from intake to its batch's start.", lambda s: s.queue_seconds),
    ("compute_seconds", "Time of a batch in the model.", lambda s: s.compute_seconds),
    ("emit_seconds", "Time to store a group of answers, retries included.", lambda s: s.emit_seconds),
)

_GAUGES: Final[tuple[tuple[str, str, Callable[[Serving], float]], ...]] = (
    ("queued_requests", "Requests that wait for a batch.", lambda m: m.runner.queued_requests),
    ("queued_rows", "Rows that wait for a batch.", lambda m: m.runner.queued_rows),
    ("running_rows", "Rows in batches that run or are staged.", lambda m: m.runner.running_rows),
    ("inflight_requests", "Requests taken in whose answer is not stored yet.", lambda m: m.runner.in_flight),
    (
        "lag_records",
        "Records of the owned partitions that are not committed, as of the last heartbeat.",
        lambda m: m.last_lag,
    ),
    ("oldest_age_seconds", "Age of the oldest request here since it was published.", lambda m: m.oldest_age()),
    ("partitions", "Partitions owned.", lambda m: len(m.intake.owned)),
    (
        "batch_lane_queued_records",
        "Records of the batch lane whose answer is not stored yet.",
        lambda m: m.batch_lane.in_flight,
    ),
    ("batch_lane_queued_rows", "Rows of the batch lane that are in no batch yet.", lambda m: m.batch_lane.queued_rows),
    (
        "batch_lane_lag_records",
        "Records of the owned partitions of the batch topic that are not committed, as of the last heartbeat.",
        lambda m: m.last_batch_lag,
    ),
    ("batch_lane_partitions", "Partitions of the batch topic owned.", lambda m: len(m.batch_intake.owned)),
    (
        "batch_lane_slowed",
        "1 while the batch lane takes nothing in because the store fills.",
        lambda m: bool(m.batch_lane.slowed),
    ),
    ("instances", "Instances loaded.", lambda m: len(m.loaded.executors)),
)


class WorkerMetrics(Collector):
    """A collector of the given registry.

    Args:
        registry: where it registers itself.
        serving: every model version that takes requests.
        retry: of the worker's own calls; those of a model version's are its own.
        devices: utilisation of CPU and GPUs.
        inference: export `nv_inference_*` and `nv_cache_*`; a gateway that shares the registry exports them for the fleet.

    Attributes:
        ready: called per scrape.
        restarts: how often the supervisor has started this worker again; a supervisor's own start begins at 0.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        serving: Callable[[], list[Serving]],
        retry: Retry,
        devices: Devices,
        *,
        inference: bool = True,
    ) -> None:
        self._inference = inference
        self.ready: Callable[[], bool] = lambda: False
        self.restarts = 0
        self._serving = serving
        self._retry = retry
        self._devices = devices
        self._registry = registry
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing: naming the families would require a scrape before there is anything to scrape."""
        return ()

    def close(self) -> None:
        """Leave the registry, so that a worker made later can register."""
        self._registry.unregister(self)

    def collect(self) -> Iterator[Metric]:
        """All families, with their current values."""
        models = [(serving, _labels(serving)) for serving in self._serving()]
        names = sorted({name for _, labels in models for name in labels}, key=_label_order)
        yield from self._triton(models, names)
        yield from self._own(models, names)
        yield _restarts(models, names)
        yield from self._failing(models, names)
        yield CounterMetricFamily(
            "penstock_worker_restarts", "Times that the supervisor has started this worker again.", self.restarts
        )
        yield GaugeMetricFamily("penstock_worker_ready", "1 while the worker is ready.", float(self.ready()))
        yield from self._devices.collect()

    def _failing(self, models: list[tuple[Serving, dict[str, str]]], names: list[str]) -> Iterator[Metric]:
        failed = CounterMetricFamily(
            "penstock_worker_failed_calls",
            "Calls of store or broker that failed and were retried; those without a model are the worker's own.",
            labels=[*names, "call"],
        )
        failing = GaugeMetricFamily(
            "penstock_worker_failing_calls",
            "Calls that are being retried now; the intake of that model is paused.",
            labels=[*names, "call"],
        )
        for retry, labels in [(self._retry, dict[str, str]()), *[(m.retry, labels) for m, labels in models]]:
            for what, count in list(retry.failures.items()):
                failed.add_metric([*_values(names, labels), what], count)
                failing.add_metric([*_values(names, labels), what], retry.repeated[what])
        yield from (failed, failing)

    def _triton(self, models: list[tuple[Serving, dict[str, str]]], names: list[str]) -> Iterator[Metric]:
        if self._inference:
            yield from self._inferences(models, names)
        seconds = GaugeMetricFamily("nv_model_load_duration_secs", "Time of the last load.", labels=names)
        for serving, labels in models:
            seconds.add_metric(_values(names, labels), serving.loaded.seconds)
        yield seconds

    def _inferences(self, models: list[tuple[Serving, dict[str, str]]], names: list[str]) -> Iterator[Metric]:
        caching = any(m.statistics.cache_hit.count or m.statistics.cache_miss.count for m, _ in models)
        for name, text, read in (*_NV_COUNTERS, *(_NV_CACHE if caching else ())):
            # Not a counter family: that would append `_total` to Triton's names, which dashboards use without it.
            family = UnknownMetricFamily(name, text, labels=names)
            for serving, labels in models:
                family.add_metric(_values(names, labels), read(serving.statistics))
            yield family
        failures = UnknownMetricFamily(
            "nv_inference_request_failure", "Failed requests by reason.", labels=[*names, "reason"]
        )
        pending = GaugeMetricFamily(
            "nv_inference_pending_request_count", "Requests that wait to be executed.", labels=names
        )
        first = HistogramMetricFamily(
            "nv_inference_first_response_histogram_ms",
            "Time from intake to the answer of successful requests.",
            labels=names,
        )
        for serving, labels in models:
            values, statistics = _values(names, labels), serving.statistics
            for reason, count in statistics.failures.items():
                failures.add_metric([*values, reason.value], count)
            pending.add_metric(values, serving.runner.queued_requests)
            first.add_metric(values, statistics.first_response.cumulative(), statistics.first_response.total)
        yield from (failures, pending, first)

    def _own(self, models: list[tuple[Serving, dict[str, str]]], names: list[str]) -> Iterator[Metric]:
        for name, text, read in _COUNTERS:
            counter = CounterMetricFamily(f"penstock_worker_{name}", text, labels=names)
            for serving, labels in models:
                counter.add_metric(_values(names, labels), read(serving.statistics))
            yield counter
        for name, text, label, counts in _LABELLED:
            counter = CounterMetricFamily(f"penstock_worker_{name}", text, labels=[*names, label])
            for serving, labels in models:
                for key, count in list(counts(serving.statistics).items()):
                    counter.add_metric([*_values(names, labels), key], count)
            yield counter
        for name, text, choose in _HISTOGRAMS:
            histogram = HistogramMetricFamily(f"penstock_worker_{name}", text, labels=names)
            for serving, labels in models:
                buckets = choose(serving.statistics)
                histogram.add_metric(_values(names, labels), buckets.cumulative(), buckets.total)
            yield histogram
        for name, text, measure in _GAUGES:
            gauge = GaugeMetricFamily(f"penstock_worker_{name}", text, labels=names)
            for serving, labels in models:
                gauge.add_metric(_values(names, labels), measure(serving))
            yield gauge


def _restarts(models: list[tuple[Serving, dict[str, str]]], names: list[str]) -> Metric:
    text = "Restarts of instances' child processes."
    counter = CounterMetricFamily("penstock_worker_instance_restarts", text, labels=names)
    for serving, labels in models:
        restarts = sum([executor.restarts for executor in serving.loaded.executors])
        counter.add_metric(_values(names, labels), restarts)
    return counter


def _labels(serving: Serving) -> dict[str, str]:
    """Triton's labels: the model, its version, and its `metric_tags` with an underscore in front."""
    model, version = serving.key
    tags = serving.loaded.version.config.metric_tags
    return {"model": model, "version": version} | {f"_{name}": value for name, value in tags.items()}


def _label_order(name: str) -> tuple[int, str]:
    return (("model", "version").index(name) if name in ("model", "version") else 2, name)


def _values(names: list[str], labels: dict[str, str]) -> list[str]:
    return [labels.get(name, "") for name in names]
