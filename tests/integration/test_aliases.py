"""Aliases of a real fleet: two gateways see a switch, a canary gets its part, a shadow is compared, everything is killed."""

from __future__ import annotations

import collections
from pathlib import Path

import httpx
import numpy as np
import pytest

from penstock.client import Client
from protocol.errors import FleetError
from tests.integration.fleet import Fleet, Process, fleet, wait_for

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(480)]

VERSION = """
class Model:
    inputs = {{"X": ("FP32", [2])}}
    outputs = {{"Y": ("FP32", [2])}}
    max_batch_size = 16

    def predict(self, X):
        return {{"Y": X + {off}}}
"""
PATH = "/v2/repository/models/m/aliases"
X = {"X": np.ones((1, 2), np.float32)}


def write_versions(repository: Path) -> None:
    """Versions 3 and 5 agree, 4 is off by a half."""
    for version, off in (("3", "0.0"), ("4", "0.5"), ("5", "0.0")):
        folder = repository / "m" / version
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(VERSION.format(off=off))
    (repository / "m" / "config.pbtxt").write_text("version_policy { all { } }")


def version_of(gateway: Process, **options: str) -> str:
    with Client(gateway.url) as client:
        return client.infer("m@prod", X, timeout=20.0, **options).version  # type: ignore[arg-type]  # a key


def put(gateway: Process, alias: str, document: object) -> None:
    with Client(gateway.url) as client:
        client.send("PUT", f"{PATH}/{alias}", document)


def shadows(gateways: list[Process], result: str) -> float:
    """Copies with this result, over all gateways."""
    total = 0.0
    for gateway in gateways:
        text = httpx.get(f"http://127.0.0.1:{gateway.metrics_port}/metrics", timeout=5).text
        for line in text.splitlines():
            if line.startswith("penstock_gateway_shadow_answers_total") and f'result="{result}"' in line:
                total += float(line.rpartition(" ")[2])
    return total


def start(running: Fleet, gateways: int = 2) -> None:
    for _ in range(gateways):
        running.add_gateway()
    running.add_worker()
    running.wait_ready(models=3, within=150)


def test_a_switch_a_canary_a_shadow_a_rollback_and_a_restart(
    kafka_bootstrap: str, redis_url: str, prefix: str, tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    write_versions(repository)
    with fleet(kafka_bootstrap, redis_url, prefix, tmp_path, repository) as running:
        start(running)
        first, second = running.gateways

        with pytest.raises(FleetError, match="not found"):
            version_of(first)
        put(first, "prod", {"versions": {"3": 1}})
        assert version_of(first) == "3"
        wait_for("the other gateway to see it", lambda: _sees(second, "3"), 10)

        put(second, "prod", {"versions": {"4": 1}})
        wait_for("the first gateway to see the switch", lambda: _sees(first, "4"), 10)

        put(first, "prod", {"versions": {"3": 75, "4": 25}})
        wait_for("the canary on both", lambda: all(_canary(gateway) for gateway in (first, second)), 20)
        counted = collections.Counter()
        for gateway in (first, second):
            with Client(gateway.url) as client:
                counted.update(client.infer("m@prod", X).version for _ in range(200))
        assert 60 <= counted["4"] <= 145, counted
        keyed = {key: version_of(first, idempotency_key=key) for key in ("a", "b", "c", "d", "e", "f")}
        assert keyed == {key: version_of(second, idempotency_key=key) for key in keyed}

        for shadow, result in (("4", "different"), ("5", "equal")):
            put(first, "prod", {"versions": {"3": 1}, "shadow": {"version": shadow, "share": 1.0}})
            with Client(first.url) as client:
                answers = [client.infer("m@prod", X) for _ in range(10)]
            assert {answer.version for answer in answers} == {"3"}
            assert all(np.array_equal(answer.outputs["Y"], X["X"]) for answer in answers)
            wait_for(f"10 answers that are {result}", lambda wanted=result: shadows([first], wanted) == 10, 30)

        with Client(second.url) as client:
            wait_for(
                "the second to follow",
                lambda: client.get(PATH)["aliases"]["prod"].get("shadow", {}).get("version") == "5",
                10,
            )
            rolled = client.send("POST", f"{PATH}/rollback")
        assert rolled["aliases"]["prod"]["shadow"]["version"] == "4"
        for process in (*running.gateways, *running.workers):
            process.kill()

        running.gateways.clear()
        running.workers.clear()
        later = running.add_gateway()
        with Client(later.url) as client:
            wait_for("the new gateway", client.ready, 90)
            again = client.get(PATH)
        assert again["aliases"] == rolled["aliases"]
        assert again["previous"] == rolled["previous"]
        running.stop()


def _sees(gateway: Process, version: str) -> bool:
    try:
        return version_of(gateway) == version
    except FleetError:
        return False


def _canary(gateway: Process) -> bool:
    with Client(gateway.url) as client:
        return set(client.get(PATH)["aliases"]["prod"]["versions"]) == {"3", "4"}
