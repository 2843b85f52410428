"""The nv_* metrics of a gateway: the fleet's totals, at each scrape."""

from __future__ import annotations

import asyncio

from prometheus_client import generate_latest

from protocol.messages import Heartbeat, ModelLoad, ModelState
from protocol.ports import Terminal
from protocol.totals import Counts
from tests.gateway.fleet import ADD_SUB, ANY, Running, Site, Worker, until

KEY = ("add_sub", "1")
NUMBERS = {
    "ok": 3, "ok.ns": 9_000_000_000, "queue.ns": 4_000_500, "input.ns": 1000, "infer.ns": 2000, "output.ns": 3000, "rows": 7,
    "over100": 1, "over2000": 1, "fail.REJECTED": 2, "b4": 2,
}  # fmt: skip


async def scrape(gateway: Running) -> list[str]:
    """As the metrics port does it."""
    return (await asyncio.to_thread(generate_latest, gateway.registry)).decode().splitlines()


def of_models(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("nv_")]


async def test_every_family_has_the_totals_of_each_version(fleet: Site) -> None:
    await fleet.worker({**ADD_SUB, "metric_tags": {"team": "vision"}})
    await fleet.worker(ANY, name="w2")
    store = (await fleet.transport()).results
    await store.finish([Terminal("r", b"x", counts=Counts(KEY, NUMBERS))])
    gateway = await fleet.gateway()
    lines = await scrape(gateway)

    mine = '_team="vision",model="add_sub",version="1"'
    for line in (
        f"nv_inference_request_success{{{mine}}} 3.0",
        'nv_inference_request_success{_team="",model="any",version="1"} 0.0',
        f"nv_inference_count{{{mine}}} 7.0",
        f"nv_inference_exec_count{{{mine}}} 2.0",
        f"nv_inference_request_duration_us{{{mine}}} 9e+06",
        f"nv_inference_queue_duration_us{{{mine}}} 4000.5",
        f"nv_inference_compute_input_duration_us{{{mine}}} 1.0",
        f"nv_inference_compute_infer_duration_us{{{mine}}} 2.0",
        f"nv_inference_compute_output_duration_us{{{mine}}} 3.0",
        f"nv_inference_pending_request_count{{{mine}}} 0.0",
        'nv_inference_request_failure{_team="vision",model="add_sub",reason="REJECTED",version="1"} 2.0',
        'nv_inference_request_failure{_team="vision",model="add_sub",reason="BACKEND",version="1"} 0.0',
        'nv_inference_first_response_histogram_ms_bucket{_team="vision",le="100.0",model="add_sub",version="1"} 1.0',
        'nv_inference_first_response_histogram_ms_bucket{_team="vision",le="2000.0",model="add_sub",version="1"} 2.0',
        'nv_inference_first_response_histogram_ms_bucket{_team="vision",le="+Inf",model="add_sub",version="1"} 3.0',
        f"nv_inference_first_response_histogram_ms_sum{{{mine}}} 9000.0",
    ):
        assert line in lines
    assert not any("_total" in line or "nv_cache" in line for line in of_models(lines))


async def test_the_cache_shows_once_something_used_it(fleet: Site) -> None:
    await fleet.worker()
    store = (await fleet.transport()).results
    counts = Counts(KEY, {"ok": 2, "hit": 1, "hit.ns": 5000, "miss": 1, "miss.ns": 7000})
    await store.finish([Terminal("r", b"x", counts=counts)])
    lines = await scrape(await fleet.gateway())

    labels = '{model="add_sub",version="1"}'
    for line in ("num_hits_per_model", "num_misses_per_model"):
        assert f"nv_cache_{line}{labels} 1.0" in lines
    assert f"nv_cache_hit_duration_per_model{labels} 5.0" in lines
    assert f"nv_cache_miss_duration_per_model{labels} 7.0" in lines


async def test_each_scrape_reads_anew_and_never_less(fleet: Site) -> None:
    await fleet.worker()
    transport = await fleet.transport()
    gateway = await fleet.gateway(transport)
    for n in range(1, 4):
        await transport.results.finish([Terminal(f"r{n}", b"x", counts=Counts(KEY, {"ok": 1}))])
        assert f'nv_inference_request_success{{model="add_sub",version="1"}} {n}.0' in await scrape(gateway)
    await transport.results.close()  # the store is away: the last totals stay
    assert 'nv_inference_request_success{model="add_sub",version="1"} 3.0' in await scrape(gateway)


async def test_a_store_that_never_answered_shows_nothing_rather_than_zeros(fleet: Site) -> None:
    await fleet.worker()
    transport = await fleet.transport()
    gateway = await fleet.gateway(transport)
    await transport.results.close()
    assert of_models(await scrape(gateway)) == []


async def test_pending_requests_of_live_workers_add_up(fleet: Site) -> None:
    await Worker(await fleet.transport(), ADD_SUB).announce()
    directory = (await fleet.transport()).directory
    gateway = await fleet.gateway()
    service = gateway.gateway.service
    for name, queued, age in (("w1", 2, 0.0), ("w2", 3, 0.0), ("gone", 50, 60.0)):
        load = ModelLoad("add_sub", "1", ModelState.READY, queued_requests=queued)
        await directory.beat(Heartbeat(name, "1", "h", 1, service.clock() - age, (load,)))
    await scrape(gateway)
    line = 'nv_inference_pending_request_count{model="add_sub",version="1"} 5.0'
    await until(lambda: line in generate_latest(gateway.registry).decode())
