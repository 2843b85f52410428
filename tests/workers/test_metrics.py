import asyncio
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.workers.fleet import IDENTITY, until
from tests.workers.serving import bench
from workers.devices import Hardware
from workers.metrics import WorkerMetrics
from workers.retry import Retry
from workers.serving.serving import Serving


class NoDevices:
    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("nv_cpu_utilization", "CPU.", 0.5)


def scrape(registry: CollectorRegistry) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """name -> labels -> value, through the text format."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def metrics_of(servings: list[Serving]) -> CollectorRegistry:
    registry = CollectorRegistry()
    WorkerMetrics(registry, lambda: servings, Retry(), NoDevices())
    return registry


LABELS = (("model", "m"), ("version", "1"))


async def test_a_model_may_set_the_buckets_of_its_first_responses() -> None:
    family = "nv_inference_first_response_histogram_ms"
    control = f'metric_identifier {{ family: "{family}" }} histogram_options {{ buckets: [ 0.5, 60000 ] }}'
    async with bench() as b:
        serving = await b.serve(IDENTITY + f"model_metrics {{ metric_control {{ {control} }} }}")
        await b.caller.ask(b.caller.request(1))
        buckets = scrape(metrics_of([serving]))[f"{family}_bucket"]

    assert {dict(labels)["le"] for labels in buckets} == {"0.5", "60000.0", "+Inf"}
    assert buckets[(("le", "60000.0"), *LABELS)] == 1


async def test_counts_have_tritons_names_and_meanings() -> None:
    async with bench() as b:
        serving = await b.serve()
        (instance,) = b.instances
        await b.caller.ask(b.caller.request(1), b.caller.request(2))
        instance.error = ValueError("no")
        await b.caller.ask(b.caller.request(3))
        await until(lambda: serving.runner.in_flight == 0)
        shown = scrape(metrics_of(b.serving))
        assert shown["nv_inference_request_success"] == {LABELS: 2.0}
        assert shown["nv_inference_count"] == {LABELS: 2.0}
        assert shown["nv_inference_exec_count"] == {LABELS: 2.0}
        assert shown["nv_inference_request_failure"][(LABELS[0], ("reason", "BACKEND"), LABELS[1])] == 1.0
        assert shown["nv_inference_request_duration_us"][LABELS] >= shown["nv_inference_queue_duration_us"][LABELS]
        assert shown["nv_inference_pending_request_count"] == {LABELS: 0.0}
        assert shown["nv_model_load_duration_secs"] == {LABELS: 0.0}
        assert shown["nv_cpu_utilization"] == {(): 0.5}


async def test_the_queues_own_counts() -> None:
    async with bench() as b:
        serving = await b.serve()
        (instance,) = b.instances
        instance.gate.clear()
        futures = await b.caller.publish(b.caller.request(0))
        await instance.started()
        futures += await b.caller.publish(*[b.caller.request(n) for n in range(9)])
        await until(lambda: serving.runner.in_flight == 10)
        shown = scrape(metrics_of(b.serving))
        assert shown["penstock_worker_queued_requests"] == {LABELS: 1.0}
        assert shown["penstock_worker_running_rows"] == {LABELS: 9.0}
        assert shown["penstock_worker_inflight_requests"] == {LABELS: 10.0}
        assert shown["penstock_worker_oldest_age_seconds"][LABELS] > 0
        assert shown["penstock_worker_partitions"] == {LABELS: 1.0}
        instance.gate.set()
        await asyncio.gather(*futures)
        await until(lambda: serving.runner.in_flight == 0)
        shown = scrape(metrics_of(b.serving))
        assert sum(shown["penstock_worker_batches_total"].values()) == 3.0
        assert shown["penstock_worker_batch_rows_count"] == {LABELS: 3.0}
        assert shown["penstock_worker_batch_rows_sum"] == {LABELS: 10.0}
        assert shown["penstock_worker_queue_seconds_count"] == {LABELS: 10.0}
        assert shown["penstock_worker_emit_seconds_count"][LABELS] >= 1.0


async def test_metric_tags_are_labels_and_absent_ones_are_empty() -> None:
    async with bench() as b:
        await b.serve(IDENTITY + 'metric_tags { key: "team" value: "vision" }')
        shown = scrape(metrics_of(b.serving))
        assert shown["nv_inference_count"] == {(("_team", "vision"), *LABELS): 0.0}


async def test_a_closed_collector_makes_room_for_the_next() -> None:
    registry = CollectorRegistry()
    first = WorkerMetrics(registry, list, Retry(), NoDevices())
    first.close()
    second = WorkerMetrics(registry, list, Retry(), NoDevices())
    second.ready = lambda: True
    assert scrape(registry)["penstock_worker_ready"] == {(): 1.0}


def test_the_machine_tells_its_cpu_and_memory() -> None:
    hardware = Hardware({"CUDA_VISIBLE_DEVICES": ""})
    values = {metric.name: metric.samples[0].value for metric in hardware.collect()}
    assert 0 <= values["nv_cpu_utilization"] <= 1
    assert 0 < values["nv_cpu_memory_used_bytes"] <= values["nv_cpu_memory_total_bytes"]
    assert list(hardware.gpus) == []
