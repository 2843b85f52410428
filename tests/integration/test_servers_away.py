"""Kafka or Redis away: gateway, worker and scaler log one line every few seconds, and one when it is back."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from infra.local.kafka import Broker
from infra.local.process import free_port
from infra.local.redis import RedisServer
from protocol.runtime.repeats import EVERY
from tests.integration.fleet import Fleet, Process, fleet, wait_for

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(180)]

MODEL: Final = """
class Model:
    inputs, outputs = {"X": ("FP32", [1])}, {"Y": ("FP32", [1])}

    def predict(self, X):
        return {"Y": X}
"""
CALL: Final = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}
AWAY_FOR: Final = 6.0
"""Seconds, so that there is a second line about it."""
MEANWHILE: Final = {
    "Kafka": {
        "gateway": "new calls are refused with 503",
        "worker": "models stay loaded, and no requests come",
        "scaler": "nothing is scaled once",
    },
    "Redis": {
        "gateway": "calls get no answer until it does",
        "worker": "models stay loaded, and finished answers are kept",
        "scaler": "nothing is scaled once",
    },
}


@pytest.fixture
def running(own_kafka: Broker, own_redis: RedisServer, prefix: str, tmp_path: Path) -> Iterator[Fleet]:
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    (tmp_path / "models" / "m" / "1" / "model.py").write_text(MODEL)
    with fleet(own_kafka.bootstrap, own_redis.url, prefix, tmp_path, tmp_path / "models") as made:
        made.add_gateway()
        made.add_gateway("--processes", "2")
        made.add_worker()
        made.add_scaler()
        made.wait_ready(1)
        wait_for("the scaler", lambda: b"scaler is serving" in made.scalers[0].log.read_bytes())
        yield made


def call(gateway: Process) -> httpx.Response:
    return httpx.post(f"{gateway.url}/v2/models/m/infer", json=CALL, timeout=30)


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if re.search(r"\[(warning|error|critical) *\]", line)]


def until_it_answers(process: Process, start: int) -> str:
    """What the process logs from this byte on, up to the server's return."""

    def logged() -> str:
        text = process.log.read_bytes()[start:].decode()
        return text if "answers again" in text else ""

    return str(wait_for(f"{process.name} to see the server again", logged))


def test_a_server_that_is_away_is_a_line_every_few_seconds_in_every_process(
    running: Fleet, own_kafka: Broker, own_redis: RedisServer
) -> None:
    processes = [*running.gateways, *running.workers, *running.scalers]
    assert call(running.gateways[0]).status_code == 200
    for name, server in (("Kafka", own_kafka), ("Redis", own_redis)):
        before = [process.log.stat().st_size for process in processes]
        began = time.monotonic()
        server.kill()
        time.sleep(AWAY_FOR)
        server.start()
        for process, start in zip(processes, before, strict=True):
            text = until_it_answers(process, start)
            first, *more, back = warnings(text)
            assert f"{name} at " in first
            assert " does not answer" in first
            assert MEANWHILE[name][process.name.partition("-")[0]] in first
            assert all(f"{name} at " in line and " has not answered for " in line for line in more), more
            assert 1 <= len(more) <= (time.monotonic() - began) / EVERY + 1
            assert " answers again, after " in back
            assert "NodeNotReady" not in text
        wait_for("a call to be answered", lambda: call(running.gateways[0]).status_code == 200)


@pytest.mark.parametrize("command", ["gateway", "gateway --processes 2", "worker", "scaler"])
def test_a_kafka_that_was_never_there_is_told_while_the_start_waits(tmp_path: Path, command: str) -> None:
    port = free_port()
    flags = ["--kafka", f"127.0.0.1:{port}", "--redis", "redis://127.0.0.1:1", "--connect-timeout", "2.5"]
    own = {"worker": ["--model-repository", str(tmp_path)], "gateway": ["--grpc-port", "off"], "scaler": []}
    done = subprocess.run(
        [sys.executable, "-m", "penstock", *command.split(), *flags, *own[command.split(maxsplit=1)[0]]],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    line, end = done.stderr.splitlines()
    told = r"has not answered for [12] s \(connection refused\): nothing starts before it does"
    assert re.search(rf"Kafka at 127.0.0.1:{port} {told}", line)
    assert "given up after 2.5 s (--connect-timeout). Check that it runs" in line
    assert end.startswith(f"penstock: Kafka at 127.0.0.1:{port} did not answer within 2.5 s")
    assert done.returncode == 7


def test_a_command_that_only_prints_has_no_lines_of_the_library_either() -> None:
    servers = ["--kafka", f"127.0.0.1:{free_port()}", "--redis", "redis://127.0.0.1:1", "--connect-timeout", "1.5"]
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "status", *servers], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode != 0
    assert re.search(r" has not answered for [12] s \(connection refused\): ", done.stderr)
    assert "Unable connect" not in done.stderr


def test_a_redis_that_was_never_there_is_told_while_the_start_waits(kafka_bootstrap: str) -> None:
    redis = f"redis://127.0.0.1:{free_port()}/0"
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "gateway", "--kafka", kafka_bootstrap, "--redis", redis,
         "--connect-timeout", "2.5", "--grpc-port", "off"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert len(done.stderr.splitlines()) == 2, done.stderr
    line, end = done.stderr.splitlines()
    assert re.search(rf"Redis at {redis} has not answered for [12] s \(connection refused\): nothing starts", line)
    assert end.startswith(f"penstock: Redis at {redis} did not answer within 2.5 s")
    assert done.returncode == 7
