"""Everything but the infer route."""

from __future__ import annotations

import orjson
import pytest

from protocol.messages import ModelState
from protocol.ports import Terminal
from protocol.totals import Counts
from tests.gateway.fleet import ADD_SUB, ANY, Site, Worker, add_sub, until


async def test_server_metadata(fleet: Site) -> None:
    gateway = await fleet.gateway()

    body = (await gateway.get("/v2")).json()

    assert body["name"] == "penstock"
    assert body["version"]
    assert "binary_tensor_data" in body["extensions"]


async def test_live_and_ready_do_not_depend_on_workers(fleet: Site) -> None:
    gateway = await fleet.gateway()

    for name in ("live", "ready"):
        answer = await gateway.get(f"/v2/health/{name}")
        assert (answer.status_code, answer.json()) == (200, {name: True})
    assert gateway.metric("penstock_gateway_ready") == 1


@pytest.mark.parametrize("part", ["bus", "results"])
async def test_ready_tells_when_the_broker_or_the_store_is_away(fleet: Site, part: str) -> None:
    transport = await fleet.transport()
    gateway = await fleet.gateway(transport)
    await getattr(transport, part).close()

    await until(lambda: bool(gateway.gateway.service.not_ready))

    assert (await gateway.get("/v2/health/ready")).status_code == 400
    assert (await gateway.get("/v2/health/live")).status_code == 200
    assert gateway.metric("penstock_gateway_ready") == 0


async def test_model_metadata_and_configuration(fleet: Site) -> None:
    await fleet.worker(version="1")
    await fleet.worker(version="3", name="w2")
    gateway = await fleet.gateway()

    every, one = (
        (await gateway.get("/v2/models/add_sub")).json(),
        (await gateway.get("/v2/models/add_sub/versions/1")).json(),
    )
    config = (await gateway.get("/v2/models/add_sub/versions/3/config")).json()

    assert (every["versions"], one["versions"]) == (["1", "3"], ["1"])
    assert every["inputs"] == [{"name": name, "datatype": "FP32", "shape": [-1, 16]} for name in ("INPUT0", "INPUT1")]
    assert config["max_batch_size"] == 8
    assert config["input"][0]["data_type"] == "TYPE_FP32"


@pytest.mark.parametrize("suffix", ["", "/config", "/ready"])
async def test_unknown_models_are_404(fleet: Site, suffix: str) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()
    for path in ("/v2/models/nope", "/v2/models/add_sub/versions/7"):
        answer = await gateway.get(path + suffix)

        assert answer.status_code == 404
        assert "Request for unknown model" in answer.json()["error"]


async def test_a_model_that_is_not_ready_says_so(fleet: Site) -> None:
    worker = Worker(await fleet.transport(), ADD_SUB)
    await worker.announce(ModelState.LOADING)
    gateway = await fleet.gateway()
    for path in ("/v2/models/add_sub", "/v2/models/add_sub/versions/1"):
        answer = await gateway.get(f"{path}/ready")
        assert (answer.status_code, answer.json()) == (400, {"error": "Model version not ready"})

    await worker.announce(ModelState.READY)

    assert (await gateway.get("/v2/models/add_sub/ready")).status_code == 200


async def test_a_ready_model_without_workers_is_ready_only_where_calls_queue(fleet: Site) -> None:
    await Worker(await fleet.transport(), ADD_SUB).announce()
    queueing, refusing = await fleet.gateway(), await fleet.gateway(no_worker_policy="reject")

    assert (await queueing.get("/v2/models/add_sub/ready")).status_code == 200
    assert (await refusing.get("/v2/models/add_sub/ready")).status_code == 400


async def test_statistics_are_the_fleets_totals(fleet: Site) -> None:
    await fleet.worker()
    await fleet.worker(ANY, name="w3")
    store = (await fleet.transport()).results
    for n in range(2):
        await store.finish(
            [Terminal(f"r{n}", b"x", counts=Counts(("add_sub", "1"), {"ok": 5, "ok.ns": 50, "rows": 5}))]
        )
    gateway = await fleet.gateway()

    every = (await gateway.get("/v2/models/stats")).json()["model_stats"]
    one = (await gateway.get("/v2/models/add_sub/versions/1/stats")).json()["model_stats"]

    assert [(entry["name"], entry["inference_count"]) for entry in every] == [("add_sub", 10), ("any", 0)]
    assert one[0]["inference_stats"]["success"] == {"count": 10, "ns": 100}
    assert "workers" not in one[0]


@pytest.mark.parametrize("value", ["1", "true", "True"])
async def test_statistics_per_worker_are_beside_the_fleets(fleet: Site, value: str) -> None:
    for name, count in (("w1", 5), ("w2", 6)):
        worker = await fleet.worker(name=name)
        await worker.beat({"inference_count": count})
    gateway = await fleet.gateway()

    (entry,) = (await gateway.get(f"/v2/models/add_sub/stats?per_worker={value}")).json()["model_stats"]

    assert [(w["worker"], w["inference_count"]) for w in entry["workers"]] == [("w1", 5), ("w2", 6)]
    assert entry["inference_count"] == 0


async def test_a_version_whose_workers_are_gone_keeps_its_counts(fleet: Site) -> None:
    await Worker(await fleet.transport(), ADD_SUB).announce()
    store = (await fleet.transport()).results
    await store.finish([Terminal("r", b"x", counts=Counts(("add_sub", "1"), {"ok": 1}))])
    gateway = await fleet.gateway()

    (entry,) = (await gateway.get("/v2/models/add_sub/stats?per_worker=1")).json()["model_stats"]

    assert (entry["inference_stats"]["success"]["count"], entry["workers"]) == (1, [])


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("nope", "requested model 'nope' is not available"),
        ("add_sub/versions/9", "requested model version is not available for model 'add_sub'"),
    ],
)
async def test_statistics_of_what_is_not_there(fleet: Site, path: str, text: str) -> None:
    await fleet.worker()
    gateway = await fleet.gateway()

    answer = await gateway.get(f"/v2/models/{path}/stats")

    assert (answer.status_code, answer.json()) == (400, {"error": text})


async def test_the_repository_index(fleet: Site) -> None:
    await fleet.worker()
    broken = Worker(await fleet.transport(), ANY)
    await broken.announce(ModelState.UNAVAILABLE, "no file")
    gateway = await fleet.gateway()

    assert (await gateway.post("/v2/repository/index")).json() == [
        {"name": "add_sub", "version": "1", "state": "READY"},
        {"name": "any", "version": "1", "state": "UNAVAILABLE", "reason": "no file"},
    ]
    ready = await gateway.post("/v2/repository/index", content=b'{"ready": true}')
    assert [entry["name"] for entry in ready.json()] == ["add_sub"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v2/repository/index", b"{", 400),
        ("/v2/repository/index", b"[]", 400),
        ("/v2/repository/index", b'{"ready": 1}', 400),
        ("/v2/repository/index", b'{"repository_name": "x"}', 501),
        ("/v2/repository/index", b" " * 100_000, 413),
        ("/v2/repository/other/index", b"", 501),
        ("/v2/repository/models/add_sub/load", b"", 503),
        ("/v2/repository/models/add_sub/unload", b"", 503),
        ("/v2/repository/models/add_sub/explode", b"", 404),
        ("/v2/systemsharedmemory/region/x/register", b"{}", 501),
        ("/v2/systemsharedmemory/unregister", b"", 501),
        ("/v2/cudasharedmemory/region/x/register", b"{}", 501),
    ],
)
async def test_what_is_not_offered_says_so(fleet: Site, path: str, body: bytes, status: int) -> None:
    gateway = await fleet.gateway()

    answer = await gateway.post(path, content=body)

    assert answer.status_code == status
    assert answer.json()["error"]


async def test_the_key_is_asked_for_everywhere_but_for_health(fleet: Site) -> None:
    await fleet.worker()
    gateway = await fleet.gateway(api_key="secret")
    paths = [
        "/v2",
        "/v2/models/add_sub",
        "/v2/models/stats",
        "/v2/requests/abc",
        "/nothing",
        "/v2/models/add_sub/infer",
    ]
    for path in paths:
        answer = await gateway.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert "secret" not in answer.text
        assert (await gateway.get(path, headers={"authorization": "Bearer secret"})).status_code != 401
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert (await gateway.get(path)).status_code == 200
    refused = await gateway.post("/v2/models/add_sub/infer", content=orjson.dumps(add_sub()))
    assert refused.status_code == 401
    assert (await gateway.infer(x_api_key="secret")).status_code == 200
    assert gateway.metric('penstock_gateway_rejections_total{code="UNAUTHENTICATED"}') == 1
