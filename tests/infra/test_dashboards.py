"""Prometheus and its page beside a fleet: what is written for them, and a real Prometheus that draws on a real fleet."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from infra.local.dashboards import picture, zeros
from infra.local.process import free_port
from infra.local.prometheus import FILES, MARK, configuration, find_prometheus, page
from infra.local.servers import KAFKA_VARIABLE, REDIS_VARIABLE
from protocol.errors import Unavailable
from tests.integration.fleet import wait_for

ROOT = Path(__file__).parents[2]
BOARD = json.loads((FILES / "dashboard.json").read_text())
QUERIES = [
    (panel["title"], target["expr"].replace("$model", ".*")) for panel in BOARD["panels"] for target in panel.get("targets", ())
]  # fmt: skip
QUIET = {
    "Dead letters an hour", "Refused a second", "Failing calls of Kafka and Redis", "Failed requests a second", "GPU", "GPU memory",
    "Restarts in half an hour",
}  # fmt: skip
"""Panels without a sample while nothing fails, or without a GPU."""


def test_the_page_has_every_panel_and_nothing_that_prometheus_takes_for_its_own_templates() -> None:
    text = page()
    board = re.search(r'<script id="board" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert board is not None
    assert json.loads(board[1]) == BOARD
    assert "{{" not in text
    assert MARK not in text


def test_the_local_prometheus_has_the_jobs_and_rules_of_the_file_for_operators() -> None:
    theirs = yaml.safe_load((FILES / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in theirs["scrape_configs"]}
    ours = yaml.safe_load(configuration(jobs, 2.0))
    assert ours["scrape_configs"] == theirs["scrape_configs"]
    assert [Path(name).name for name in ours["rule_files"]] == theirs["rule_files"]
    assert ours["global"]["scrape_interval"] == "2000ms"


def test_any_model_can_be_called_with_zeros() -> None:
    inputs = [
        {"name": "A", "datatype": "FP32", "shape": [-1, -1, 3]},
        {"name": "S", "datatype": "BYTES", "shape": [-1]},
    ]
    made = zeros({"inputs": inputs}, 4)
    assert (made["A"].shape, made["A"].dtype, made["S"].tolist()) == ((4, 1, 3), np.float32, [b""] * 4)


def test_without_the_program_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unavailable, match="apt-get install --no-install-recommends prometheus"):
        find_prometheus()
    with pytest.raises(Unavailable, match="apt-get install --no-install-recommends chromium"):
        picture("http://127.0.0.1:9", Path("/nowhere"))


@pytest.fixture
def shown(kafka_bootstrap: str, redis_url: str) -> Iterator[dict[str, str]]:
    """The addresses that `make dashboards` prints: its command, with a broker and a store that run, on free ports."""
    target = re.search(
        r"^dashboards: .*\n\t\$\(DEV\)/bin/python (.*) \$\(ARGS\)$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    assert target is not None
    ports = ("--http-port", str(free_port()), "--port", str(free_port()))
    running = subprocess.Popen(
        [sys.executable, *shlex.split(target[1]), *ports], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, KAFKA_VARIABLE: kafka_bootstrap, REDIS_VARIABLE: redis_url},
    )  # fmt: skip
    with running:
        try:
            assert running.stdout is not None
            found: dict[str, str] = {}
            for line in running.stdout:
                name, _, address = line.strip().partition(" ")
                found[name] = address.strip()
                if name == "dashboard":
                    break
            yield found
        finally:
            running.terminate()
            running.wait(90)
    assert running.returncode == 0


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_make_dashboards_draws_every_panel_of_a_real_fleet(shown: dict[str, str]) -> None:
    with httpx.Client(base_url=shown["prometheus"], timeout=30) as asked:

        def ask(kind: str, **parameters: Any) -> Any:
            answer = asked.get(f"/api/v1/{kind}", params=parameters).json()
            assert answer["status"] == "success", answer
            return answer["data"]

        def empty() -> set[str]:
            now = time.time()
            drawn = [
                (title, ask("query_range", query=query, start=now - 60, end=now, step=1)["result"]) for title, query in QUERIES
            ]  # fmt: skip
            return {title for title, _ in drawn} - {title for title, result in drawn if result}

        missing: set[str] = set()

        def complete() -> bool:
            missing.clear()
            missing.update(empty() - QUIET)
            return not missing

        with contextlib.suppress(AssertionError):
            wait_for("samples in every panel", complete, within=180, pause=2.0)
        assert missing == set(), "these panels have no sample"
        assert asked.get(shown["dashboard"]).text == page()
        rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
        assert [rule["name"] for rule in rules if rule.get("state") == "firing"] == []
        targets = ask("targets")["activeTargets"]
        assert [(target["labels"]["job"], target["health"]) for target in targets].count(("penstock-worker", "up")) == 2
