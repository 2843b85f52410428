"""The checker itself, on a real broker and a real store: a short run of a real fleet, broken on purpose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local import faults
from infra.local.kafka import Broker
from infra.local.redis import RedisServer
from infra.local.servers import Servers
from penstock.verify.report.report import HELD
from protocol.errors import Unavailable

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]


def verify(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "penstock", "verify", *arguments, "--session-timeout", "6"]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=ROOT, env=environ, check=False)


def test_a_fleet_that_is_broken_on_purpose_keeps_its_promises(
    kafka_bootstrap: str, redis_url: str, tmp_path: Path
) -> None:
    report = tmp_path / "verify.json"
    kinds = "worker-kill,gateway-kill,worker-stop,redis-drop,redis-delay"
    done = verify(
        "--kafka", kafka_bootstrap, "--redis", redis_url, "--seed", "5", "--requests", "500", "--faults", kinds,
        "--report", str(report),
    )  # fmt: skip

    assert done.returncode == HELD, done.stdout + done.stderr
    judged = json.loads(report.read_bytes())
    assert all(verdict["held"] for verdict in judged["verdicts"])
    assert judged["redelivered"]
    assert {fault["kind"] for fault in judged["faults"]} == set(kinds.split(","))
    assert judged["measures"]["samples"] > 10
    assert len(judged["plan"]["calls"]) == 500


def test_faults_of_servers_are_done_by_whoever_started_them(
    own_kafka: Broker, own_redis: RedisServer, tmp_path: Path
) -> None:
    before = own_redis.pid
    possible = faults.faults(Servers(own_kafka.bootstrap, own_redis.url, own_kafka, own_redis))
    with faults.offered(possible, tmp_path / "faults"):
        faults.ask(tmp_path / "faults", "redis-kill")
        with pytest.raises(Unavailable, match="no-such"):
            faults.ask(tmp_path / "faults", "no-such")

    assert own_redis.running
    assert own_redis.pid != before
    assert {name.partition("-")[0] for name in possible} == {"kafka", "redis"}


def test_servers_that_were_not_started_here_are_not_broken() -> None:
    assert faults.faults(Servers("127.0.0.1:9092", "redis://127.0.0.1:6379/0")) == {}
