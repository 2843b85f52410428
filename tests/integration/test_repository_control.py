"""Repository control on a real fleet: two gateways and two workers that follow the desired state."""

from __future__ import annotations

import base64
import contextlib
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.fleet import Fleet, Process, fleet, wait_for
from tests.integration.repositories import PLUS, write_model
from tests.integration.traffic import Traffic

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(240)]

EXPLICIT = ("--model-control-mode", "explicit", "--unload-grace", "5")


@pytest.fixture
def site(kafka_bootstrap: str, redis_url: str, prefix: str, tmp_path: Path) -> Iterator[Fleet]:
    """Two gateways and two workers with the models `plus` and `other`, which are not loaded."""
    for name in ("plus", "other"):
        write_model(tmp_path / "models", name, PLUS % 1)
    with fleet(kafka_bootstrap, redis_url, prefix, tmp_path, tmp_path / "models") as running:
        start(running, 2)
        yield running


def start(running: Fleet, workers: int) -> None:
    """Start two gateways and so many workers, and wait until the gateways see them."""
    gateways = [running.add_gateway() for _ in range(2)]
    for number in range(workers):
        running.add_worker(*EXPLICIT, "--model-cache-dir", str(running.folder / "cache"), name=f"w{number}")
    for gateway in gateways:
        wait_for("the workers", lambda gateway=gateway: len(status(gateway, "plus").get("workers", ())) == workers)


def post(gateway: Process, path: str, body: Any = None) -> httpx.Response:
    return httpx.post(gateway.url + path, json=body or {}, timeout=60)


def load(gateway: Process, model: str, parameters: dict[str, Any] | None = None) -> httpx.Response:
    return post(gateway, f"/v2/repository/models/{model}/load", {"parameters": parameters or {}})


def unload(gateway: Process, model: str) -> httpx.Response:
    return post(gateway, f"/v2/repository/models/{model}/unload")


def status(gateway: Process, model: str) -> dict[str, Any]:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{gateway.url}/v2/repository/models/{model}/status", timeout=10).json()  # type: ignore[no-any-return]
    return {}


def infer(gateway: Process, model: str = "plus") -> httpx.Response:
    body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]}
    return post(gateway, f"/v2/models/{model}/infer", body)


def answer(gateway: Process, model: str = "plus") -> float:
    """What the model makes of 1."""
    found = infer(gateway, model)
    assert found.status_code == 200, found.text
    return float(found.json()["outputs"][0]["data"][0])


def test_one_call_loads_a_model_on_every_worker_and_on_those_that_start_later(site: Fleet) -> None:
    first, second = site.gateways
    assert infer(first).status_code == 404
    loaded = load(first, "plus")
    assert (loaded.status_code, loaded.text) == (200, "")
    assert [answer(gateway) for gateway in (first, second)] == [2.0, 2.0]
    found = wait_for(
        "both workers", lambda: (s := status(second, "plus")) and all(w["done"] for w in s["workers"]) and s
    )
    assert [(w["worker"], w["state"], w["generation"]) for w in found["workers"]] == [
        (name, "READY", found["desired"]["generation"]) for name in ("w0", "w1")
    ]
    digests = {version["digest"] for worker in found["workers"] for version in worker["versions"]}
    assert len(digests) == 1

    third = site.add_worker(*EXPLICIT, name="w2")
    wait_for("the third worker", lambda: b"worker ready" in third.log.read_bytes())
    (line,) = [line for line in third.log.read_text().splitlines() if "worker ready" in line]
    assert "models=1" in line, "it catches up before it says that it is ready"
    assert unload(second, "plus").status_code == 200
    assert infer(second).status_code == 404
    wait_for("all three workers", lambda: [w["state"] for w in status(first, "plus")["workers"]] == ["UNAVAILABLE"] * 3)
    assert load(first, "missing").status_code == 500
    assert load(first, "plus").status_code == 200


def test_what_was_loaded_comes_back_after_everything_was_killed(site: Fleet) -> None:
    code = base64.b64encode(b"class Model:\n    inputs = outputs = {'X': ('FP32', [1])}\n    max_batch_size = 4\n"
                            b"    def predict(self, X):\n        return {'X': X * 10}\n").decode()  # fmt: skip
    brought = {"config": '{"backend": "python"}', "file:3/model.py": code}
    assert load(site.gateways[0], "plus").status_code == 200
    assert load(site.gateways[1], "brought", brought).text == ""
    assert load(site.gateways[0], "other").status_code == 200
    assert unload(site.gateways[0], "other").status_code == 200
    assert answer(site.gateways[0], "brought") == 10.0
    for process in (*site.gateways, *site.workers):
        process.kill()
    site.gateways.clear()
    site.workers.clear()
    shutil.rmtree(site.folder / "cache")
    start(site, 2)
    for gateway in site.gateways:
        wait_for("the desired models", lambda gateway=gateway: infer(gateway).status_code == 200)
        wait_for("the brought model", lambda gateway=gateway: infer(gateway, "brought").status_code == 200)
        assert (answer(gateway), answer(gateway, "brought")) == (2.0, 10.0)
        assert infer(gateway, "other").status_code == 404
    folders = list((site.folder / "cache").glob("loads/*/*"))
    assert len(folders) == 1, "two workers of a machine share what was fetched"


def test_replacing_a_version_under_load_fails_no_request(site: Fleet) -> None:
    gateway = site.gateways[0]
    assert load(gateway, "plus").status_code == 200
    wait_for("the other gateway", lambda: infer(site.gateways[1]).status_code == 200)
    with Traffic(site) as traffic:
        write_version(site, 2, PLUS % 2)
        second = traffic.while_(lambda: load(gateway, "plus"))
        write_version(site, 3, "raise ValueError('no weights')")
        failing: list[httpx.Response] = []
        broken = traffic.while_(lambda: failing.append(load(gateway, "plus")))
    (failed,) = failing
    assert failed.status_code == 400
    assert failed.json()["error"].startswith("load failed for model 'plus': version 3 is at UNAVAILABLE state: ")
    assert "no weights" in failed.json()["error"]
    assert {code for _, _, code, _ in traffic.answers} == {200}
    values = [value for _, _, _, value in sorted(traffic.answers)]
    assert (values[0], values[-1]) == (2.0, 3.0), "version 2 serves, and goes on when version 3 cannot be loaded"
    report("loading version 2", traffic, second)
    report("failing to load version 3", traffic, broken)
    assert answer(site.gateways[1]) == 3.0


def test_unloading_under_load_answers_every_request(site: Fleet) -> None:
    assert load(site.gateways[0], "plus").status_code == 200
    wait_for("the other gateway", lambda: infer(site.gateways[1]).status_code == 200)
    with Traffic(site) as traffic:
        traffic.while_(lambda: unload(site.gateways[0], "plus"))
        again = traffic.while_(lambda: load(site.gateways[0], "plus"))
    assert {code for _, _, code, _ in traffic.answers} <= {200, 404, 503}
    assert traffic.answers[-1][2] == 200
    assert max(seconds for _, seconds, _, _ in traffic.answers) < 30, "none is lost in the topic"
    report("unloading and loading again", traffic, again)


def test_replicas_move_when_a_worker_dies(site: Fleet) -> None:
    first, second = site.gateways
    assert load(first, "plus", {"replicas": 1}).status_code == 200

    def serving() -> list[str]:
        return [worker["worker"] for worker in status(second, "plus")["workers"] if worker["state"] == "READY"]

    (chosen,) = wait_for("one replica", lambda: len(found := serving()) == 1 and found)
    (process,) = [worker for worker in site.workers if worker.name == chosen]
    process.kill()
    (other,) = wait_for("another worker", lambda: (found := serving()) and found != [chosen] and found)
    assert other != chosen
    assert answer(first) == 2.0


def write_version(site: Fleet, version: int, code: str) -> None:
    """Another version of `plus`."""
    write_model(site.folder / "new", f"v{version}", code)
    shutil.move(site.folder / "new" / f"v{version}" / "1", site.repository / "plus" / str(version))


def report(what: str, traffic: Traffic, during: tuple[float, float]) -> None:
    """Print what callers saw while a change was made, beside all other times."""
    began, end = during
    inside = [seconds for at, seconds, _, _ in traffic.answers if began <= at + seconds and at <= end]
    outside = [seconds for at, seconds, _, _ in traffic.answers if at > end or at + seconds < began]
    p99 = statistics.quantiles(outside, n=100)[-1]
    usual = f"p50 {statistics.median(outside) * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, max {max(outside) * 1e3:.0f} ms"
    print(
        f"{what}: {end - began:.2f} s; {len(inside)} requests meanwhile, slowest {max(inside) * 1e3:.0f} ms; others: {usual}"
    )
