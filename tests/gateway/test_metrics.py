from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from gateway.counters import SECONDS, Buckets, Counters
from gateway.metrics import GatewayMetrics


@given(st.lists(st.floats(0, 100), max_size=30))
def test_buckets_count_as_prometheus_own_histogram_does(values: list[float]) -> None:
    ours, theirs = Buckets(), Histogram("h", "", registry=None, buckets=SECONDS)
    for value in values:
        ours.observe(value)
        theirs.observe(value)
    (family,) = theirs.collect()
    expected = {sample.labels["le"]: sample.value for sample in family.samples if sample.name == "h_bucket"}

    assert dict(ours.cumulative()) == expected
    assert ours.total == sum(values)


def test_every_family_is_exposed_with_its_labels() -> None:
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    counters = metrics.counters["m", "1"] = Counters()
    counters.count("OK", 0.004)
    counters.count("UNAVAILABLE", 0.2)
    metrics.rejections["EXHAUSTED"] = 3
    metrics.claims["fresh"] = 2
    metrics.cancellations = 4
    metrics.inflight = lambda: 5
    metrics.store_used = lambda: 0.25
    metrics.ready = lambda: True
    text = generate_latest(registry).decode()

    for line in (
        'penstock_gateway_requests_total{code="OK",model="m",version="1"} 1.0',
        'penstock_gateway_requests_total{code="UNAVAILABLE",model="m",version="1"} 1.0',
        'penstock_gateway_request_seconds_bucket{le="0.005",model="m",version="1"} 1.0',
        'penstock_gateway_request_seconds_count{model="m",version="1"} 2.0',
        'penstock_gateway_rejections_total{code="EXHAUSTED"} 3.0',
        'penstock_gateway_claims_total{state="fresh"} 2.0',
        "penstock_gateway_cancellations_total 4.0",
        "penstock_gateway_inflight 5.0",
        "penstock_gateway_store_used_ratio 0.25",
        "penstock_gateway_ready 1.0",
        "penstock_gateway_swept_answers_total 0.0",
    ):
        assert line in text.splitlines()
