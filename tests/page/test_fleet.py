"""The page before a fleet: a gateway of two processes, a broker, a store and a worker; and `penstock serve --processes 2`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from penstock.client import Client
from tests.integration.fleet import Process, fleet, wait_for
from tests.page.browser import Browser
from tests.page.conftest import start, write_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def points_to_metrics(process: Process) -> None:
    """`/metrics` on the API's port says where the metrics are, whichever process answers."""
    for _ in range(8):  # each connection may be another process's
        answer = httpx.get(f"{process.url}/metrics")
        assert answer.status_code == 404
        assert f"http://127.0.0.1:{process.metrics_port}/metrics" in answer.json()["error"]


def only_grows(urls: Sequence[str], calls: int) -> dict[str, Any]:
    """Calls the model, and polls every gateway and process in turn: no count goes back, whoever answers. Returns the last."""
    seen: list[dict[str, int]] = [{}]
    with Client(urls[0]) as client:
        for place in range(calls):
            client.infer("shout", {"TEXT": [["a"]]})
            known = httpx.get(f"{urls[place % len(urls)]}/v2/fleet/models").json()[
                "models"
            ]  # each a connection of its own
            (counts,) = [model["counts"] for model in known if model["name"] == "shout"]
            flat = {"success": counts["success"], **{f"t{bucket}": count for bucket, count in counts["answers"]}}
            assert all(flat.get(name, 0) >= count for name, count in seen[-1].items()), (seen[-1], flat)
            assert (
                flat["success"] == seen[-1].get("success", 0) + 1
            )  # its caller has the answer: everybody counts it, once
            assert sum(count for _, count in counts["answers"]) == counts["success"]
            seen.append(flat)
    return dict(counts)


@pytest.mark.servers
def test_gateways_and_their_processes_agree(kafka_bootstrap: str, redis_url: str, tmp_path: Path) -> None:
    repository = write_models(tmp_path / "models", "shout")
    with fleet(kafka_bootstrap, redis_url, f"a{time.time_ns() % 10**9}", tmp_path, repository) as running:
        gateways = [running.add_gateway("--processes", "2"), running.add_gateway()]
        running.add_worker()
        running.add_worker()
        running.wait_ready(models=1)
        counts = only_grows([gateway.url for gateway in gateways], 40)
        assert 0 < counts["answer_ms"]["p50"] <= counts["answer_ms"]["p90"] <= counts["answer_ms"]["p99"]


@pytest.mark.servers
def test_a_fleet_shows_its_workers_lag_and_reasons(
    browser: Browser, kafka_bootstrap: str, redis_url: str, tmp_path: Path
) -> None:
    repository = write_models(tmp_path / "models", "shout")
    with fleet(kafka_bootstrap, redis_url, f"p{time.time_ns() % 10**9}", tmp_path, repository) as running:
        gateway = running.add_gateway("--processes", "2")
        worker = running.add_worker()
        running.wait_ready(models=1)
        points_to_metrics(gateway)
        page = browser.open(gateway.url)
        page.wait_text("#rows", "shout")
        page.wait_text("#worker-rows", "worker-0")
        page.click("#send")
        page.wait_text("#outputs", "<b>hello</b>")
        assert "A worker took it from the log" in page.text("#timing")
        page.wait_text("#releases", "an instance was idle")
        page.wait_text("#sizes", "1 row")

        worker.kill()
        page.wait_text("#no-workers", "No worker is live")
        assert "silent" in page.text("#worker-rows")
        assert "is silent" in page.text("#attention")
        with Client(gateway.url) as client:
            client.submit("shout", {"TEXT": [["later"]]})
        page.wait_text("#total-waiting", "1")
        page.wait("document.querySelector('#rows tr').innerText.endsWith('1\\t0')")
        assert page.problems() == []
        page.close()


def test_one_machine_with_several_processes(tmp_path: Path) -> None:
    process = start(tmp_path, "--processes", "2", models=("shout",))
    try:
        points_to_metrics(process)
        browser = {"accept": "text/html"}
        assert "<!doctype html>" in httpx.get(process.url, headers=browser).text
        with Client(process.url) as client:
            client.infer("shout", {"TEXT": [["a"]]})
        (model,) = wait_for("the count", lambda: httpx.get(f"{process.url}/v2/fleet/models").json()["models"])
        assert model["counts"]["success"] == 1
        assert model["counts"]["releases"] == {"no_delay": 1}
    finally:
        process.stop()


def test_the_processes_of_one_machine_agree(tmp_path: Path) -> None:
    process = start(tmp_path, "--processes", "2", models=("shout",))
    try:
        counts = only_grows([process.url], 30)
        assert 0 < counts["answer_ms"]["p50"] <= counts["answer_ms"]["p99"]
    finally:
        process.stop()


def test_the_page_can_be_switched_off(tmp_path: Path) -> None:
    process = start(tmp_path, "--no-page", models=("shout",))
    try:
        answer = httpx.get(process.url, headers={"accept": "text/html"})
        assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})
        assert httpx.get(f"{process.url}/page/main.js").status_code == 404
    finally:
        process.stop()
