"""A real fleet under an operator's eyes: metrics of rules and dashboard, penstock status, every command of three pages."""

from __future__ import annotations

import asyncio
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
import redis

from infra.local.process import free_port, is_free
from infra.local.redis import RedisServer
from penstock.client import Client
from protocol.naming import Names, ref
from protocol.ports import OutRecord
from protocol.transport import open_bus
from protocol.transport.settings import TransportSettings
from tests.infra.test_prometheus import GPU, named
from tests.integration.fleet import Fleet, Process, fleet, wait_for
from tests.integration.repositories import write_model
from tests.penstock.dead_letters import evidence, request

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
PAGES = ("runbooks.md", "operations.md", "scaling.md")
MODEL = """
    class Model:
        inputs = {"X": ("FP32", [4])}
        outputs = {"Y": ("FP32", [4])}
        max_batch_size = 8

        def predict(self, X):
            return {"Y": X}
"""
LETTER = "5f0c9a7e"
TOPICS = """#!/bin/sh
exec {python} - "$@" <<'END'
import asyncio, sys
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
given = dict(zip(sys.argv[1::1], sys.argv[2::1]))
async def alter():
    admin = AIOKafkaAdminClient(bootstrap_servers=given["--bootstrap-server"])
    await admin.start()
    await admin.create_partitions({{given["--topic"]: NewPartitions(int(given["--partitions"]))}})
    await admin.close()
assert "--alter" in sys.argv
asyncio.run(alter())
END
"""
"""Kafka's tool with the options that the page uses: the jars that tests run have none of Kafka's tools."""


class Site:
    """The fleet, and how to run an operator's commands against it."""

    def __init__(self, running: Fleet, store: RedisServer) -> None:
        self.fleet, self.store = running, store
        self.gateway: Process = running.gateways[0]
        self.names = Names(running.prefix)

    def environment(self, tools: Path | None = None) -> dict[str, str]:
        path = os.pathsep.join(filter(None, [str(tools or ""), os.environ["PATH"]]))
        return os.environ | {
            "PATH": path, "PENSTOCK_KAFKA": self.fleet.kafka, "PENSTOCK_REDIS": self.fleet.redis, "PYTHONPATH": str(ROOT),
            "PENSTOCK_PREFIX": self.fleet.prefix, "PENSTOCK_GATEWAY": self.gateway.url, "PENSTOCK_URL": self.gateway.url,
        }  # fmt: skip

    def status(self, *arguments: str, **variables: str) -> dict[str, Any]:
        """The JSON of `penstock status`."""
        done = subprocess.run(
            [sys.executable, "-m", "penstock", "status", "--json", "--interval", "0.2", *arguments],
            capture_output=True, text=True, check=False, env=self.environment() | variables, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        shown: dict[str, Any] = json.loads(done.stdout)
        return shown

    def infer(self, times: int = 1) -> str:
        """Calls; the last one's id."""
        with Client(self.gateway.url) as client:
            for _ in range(times):
                result = client.infer("digits", {"X": np.ones((2, 4), np.float32)})
        return result.request_id


@contextlib.contextmanager
def started(kafka: str, folder: Path) -> Iterator[Site]:
    """A gateway and two workers."""
    write_model(folder / "models", "digits", MODEL)
    explicit = ("--model-control-mode", "explicit", "--load-model", "digits")
    with (
        RedisServer(folder / "redis") as store,
        fleet(kafka, store.url, f"o{time.time_ns() % 10**9}", folder, folder / "models") as running,
    ):
        running.add_gateway("--trim-bytes", "0")
        for _ in range(2):
            running.add_worker("--partitions", "4", *explicit)
        running.wait_ready(models=1)
        yield Site(running, store)


@pytest.fixture(scope="module")
def site(kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """For tests that leave the fleet as it was."""
    with started(kafka_bootstrap, tmp_path_factory.mktemp("watched")) as site:
        yield site


def families(process: Process) -> set[str]:
    """The names of a process's metrics, as a query writes them."""
    text = httpx.get(f"http://127.0.0.1:{process.metrics_port}/metrics", timeout=10).text
    found = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        found |= {name + end for end in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    return found


def test_every_metric_that_a_rule_or_the_dashboard_names_is_shown(site: Site) -> None:
    site.infer()
    shown = set().union(*[families(process) for process in (site.gateway, *site.fleet.workers)])
    wanted = {name for name in named() if not GPU.match(name)}

    assert wanted <= shown
    assert {"penstock_backlog_rows", "penstock_time_to_drain_seconds", "penstock_wanted_workers"} <= wanted


def test_status_shows_the_same_fleet_from_its_servers_and_through_its_gateway(site: Site) -> None:
    site.infer(times=5)
    both, servers = site.status(), site.status(PENSTOCK_GATEWAY="")
    alone = site.status(PENSTOCK_KAFKA="", PENSTOCK_REDIS="")

    for each in (both, servers, alone):
        (model,) = each["models"]
        assert (model["model"], model["state"], model["ready_workers"], model["max_batch"]) == ("digits", "READY", 2, 8)
        assert model["rows_run"] >= 10
        assert [worker["worker"] for worker in each["workers"]] == ["worker-0", "worker-1"]
        assert {worker["restarts"] for worker in each["workers"]} == {0}
        assert each["anomalies"] == []
    assert (both["gateway"], servers["gateway"], alone["gateway"]) == ("", None, "")
    assert (servers["models"][0]["partitions"], servers["models"][0]["unowned"]) == (4, 0)
    assert sum(worker["partitions"]["digits/1"] for worker in servers["workers"]) == 4
    assert 0 < servers["store_used"] < 0.5
    assert (alone["store_used"], alone["dead"], alone["models"][0]["unowned"]) == (None, None, None)
    assert alone["models"][0]["partitions"] == 4
    assert "add --kafka and --redis" in alone["unseen"][0]


def test_a_worker_without_a_model_is_seen_until_it_leaves(site: Site) -> None:
    def seen() -> bool:
        return "worker-9" in {each["worker"] for each in site.status(PENSTOCK_GATEWAY="")["workers"]}

    extra = site.fleet.add_worker("--model-control-mode", "explicit", name="worker-9")
    try:
        wait_for("its heartbeat", seen)
    finally:
        extra.stop()
        site.fleet.workers.remove(extra)
    wait_for("its end", lambda: not seen())


def test_small_answers_are_trimmed_where_the_gateway_is_told_to(site: Site) -> None:
    store = redis.Redis.from_url(site.store.url)
    key = site.names.result_key(ref("-", site.infer()))
    wait_for("the entry's end", lambda: store.exists(key) and store.xlen(key) == 0)
    store.close()


def test_watch_shows_screen_after_screen_until_it_is_interrupted(site: Site) -> None:
    watching = subprocess.Popen(
        [sys.executable, "-m", "penstock", "status", "--watch", "--interval", "0.2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=site.environment(),
    )  # fmt: skip
    assert watching.stdout is not None
    heads = 0
    for line in watching.stdout:
        assert "\x1b" not in line  # no terminal, no colours
        heads += line.startswith("MODEL")
        if heads == 3:
            break
    watching.send_signal(2)
    assert watching.wait(30) == 130
    watching.stdout.close()
    assert watching.stderr is not None
    assert watching.stderr.read().strip() == "penstock: interrupted"  # after the line of the ^C
    watching.stderr.close()


# --- what changes the fleet, on one of its own -----------------------------------------------------------------------------


def commands() -> list[str]:
    """Every command of the pages, once, in their order."""
    pages = [re.sub(r"^```.*?^```$", "", (ROOT / "docs" / page).read_text(), flags=re.M | re.S) for page in PAGES]
    lines = [line for page in pages for line in re.findall(r"^ {4,}(\S.*)$", page, re.MULTILINE)]
    return [line for line in dict.fromkeys(lines) if not line.startswith("export ")]


async def give_up(site: Site) -> None:
    """Write a dead letter as a worker does."""
    bus = open_bus(TransportSettings(kafka=site.fleet.kafka, prefix=site.fleet.prefix, bus_only=True))
    await bus.open()
    value, headers = request(LETTER, values=(1.0, 2.0, 3.0, 4.0))
    marks = evidence(topic=site.names.infer_topic("digits", "1"))
    await bus.ensure_topic(site.names.dead_topic("digits"), 1)
    await bus.publish(site.names.dead_topic("digits"), [OutRecord(value, (*headers, *marks))])
    await bus.close()


def test_a_death_and_a_dead_letter_are_anomalies_and_every_command_of_the_pages_runs(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    with started(kafka_bootstrap, tmp_path) as site:
        worker = site.fleet.workers[0]
        worker.kill_worker()
        wait_for("the next process", lambda: worker.metric("penstock_worker_restarts_total") == 1)
        asyncio.run(give_up(site))

        def seen() -> dict[str, Any]:
            shown = site.status()
            return shown if sorted(each["restarts"] for each in shown["workers"]) == [0, 1] else {}

        shown = wait_for("the restart in a heartbeat", seen)
        assert shown["dead"] == {"digits": {"poison": 1}}
        assert "PenstockDeadLetters" in {each["runbook"] for each in shown["anomalies"]}
        run_pages(site, tmp_path)


def runs_until_it_is_told_to_stop(line: str, ours: dict[str, str], environment: dict[str, str]) -> None:
    """A server's command, on free ports."""
    for theirs, own in ours.items():
        line = line.replace(theirs, own)
    port, shown = free_port(), free_port()
    arguments = [*shlex.split(line)[1:], "--grpc-port", str(port), "--metrics-port", str(shown)]
    running = subprocess.Popen([sys.executable, "-m", "penstock", *arguments], env=environment)
    try:
        wait_for(line, lambda: not is_free(port))
    finally:
        running.terminate()
    assert running.wait(60) == 0, line


def run_pages(site: Site, folder: Path) -> None:
    """Run all commands with this fleet's addresses."""
    tool = folder / "kafka-topics.sh"
    tool.write_text(TOPICS.format(python=shlex.quote(sys.executable)))
    tool.chmod(0o755)
    environment = site.environment(folder)
    port = site.store.url.rsplit(":", 1)[1].split("/")[0]
    ours = {
        "http://localhost:8000": site.gateway.url,
        "localhost:8002": f"127.0.0.1:{site.gateway.metrics_port}",
        "localhost:9092": site.fleet.kafka,
        "redis://localhost:6379": site.fleet.redis,
        "penstock.infer": f"{site.names.prefix}.infer",
    }
    for line in commands():
        if line.startswith("penstock scaler"):
            runs_until_it_is_told_to_stop(line, ours, environment)
            continue
        command = line
        for theirs, own in ours.items():
            command = command.replace(theirs, own)
        command = re.sub(r"^penstock ", f"{shlex.quote(sys.executable)} -m penstock ", command)
        command = re.sub(r"^redis-cli ", f"redis-cli -p {port} ", command)
        command = re.sub(r"^curl -s", "curl -sS --fail -s", command)
        done = subprocess.run(
            ["bash", "-c", command],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=120,
            cwd=folder,
        )
        # Doctor exits with 1 here: one broker keeps one copy.
        allowed = {0, 1} if "penstock doctor" in line else {0}
        assert done.returncode in allowed, f"{line}\n{done.stdout}\n{done.stderr}"
        assert done.stdout or line.startswith("kafka-topics"), line
