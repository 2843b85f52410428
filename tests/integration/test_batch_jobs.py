"""Batch jobs through a real fleet: files in, files out, while a worker is killed and the submitter interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from tests.integration.fleet import Fleet, fleet, wait_for
from tests.integration.repositories import write_model

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(300)]

MODEL = """
    class Model:
        inputs = {"X": ("FP32", [4])}
        outputs = {"Y": ("FP32", [4])}
        max_batch_size = 32

        def predict(self, X):
            if (X[:, 1] == 13).any():
                raise ValueError("thirteen")
            return {"Y": X * 2}
"""
LINES = 30_000


class Site:
    """A fleet and the folder of jobs."""

    def __init__(self, running: Fleet, folder: Path) -> None:
        self.fleet, self.folder = running, folder
        self.servers = ["--kafka", running.kafka, "--redis", running.redis, "--prefix", running.prefix]

    def write(self, name: str, count: int, poison: int = 0) -> Path:
        rows = ({"X": [line, 13 if poison and line % poison == 0 else 0, 0.5, 1]} for line in range(1, count + 1))
        (self.folder / name).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        return self.folder / name

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "penstock", "batch", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.folder,
            env=os.environ | {"XDG_STATE_HOME": str(self.folder / "state")},
        )  # fmt: skip

    def run(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=200)
        return process.returncode, output

    def check(self, target: str, count: int, poison: int = 0) -> None:
        """Every line once, in order, with its answer."""
        for number, line in enumerate((self.folder / target).read_bytes().splitlines(), 1):
            entry: dict[str, Any] = orjson.loads(line)
            assert entry["line"] == number
            if poison and number % poison == 0:
                assert entry["error"]["code"] == "MODEL_FAILED"
            else:
                assert entry["outputs"] == {"Y": [2.0 * number, 0.0, 1.0, 2.0]}
        assert number == count


@pytest.fixture(scope="module")
def site(kafka_bootstrap: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("batch")
    write_model(folder / "models", "twice", MODEL)
    prefix = f"b{time.time_ns() % 10**9}"
    with fleet(kafka_bootstrap, redis_url, prefix, folder, folder / "models") as running:
        for _ in range(2):
            running.add_worker()
        running.wait_ready(1)
        yield Site(running, folder)


def test_a_worker_is_killed_and_the_submitter_interrupted(site: Site) -> None:
    site.write("in.jsonl", LINES, poison=5000)
    line = [
        "submit",
        "twice",
        "in.jsonl",
        "-o",
        "out.jsonl",
        "--job",
        "big",
        "--json",
        "--rows-per-record",
        "32",
        *site.servers,
    ]
    first = site.start(*line)
    wait_for("answers", lambda: (site.folder / "out.jsonl").exists() and (site.folder / "out.jsonl").stat().st_size)
    site.fleet.workers[0].kill_worker()
    peak = psutil.Process(first.pid).memory_info().rss
    time.sleep(1.0)
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=60)
    if first.returncode != 12:  # it was done before
        assert first.returncode == 130, output
        assert "the same command goes on" in output
        code, output = site.run(*line)
        assert code == 12, output
    last = orjson.loads(output.splitlines()[-1])
    assert (last["state"], last["answered"], last["failed"]) == ("done", LINES - 6, 6)
    site.check("out.jsonl", LINES, poison=5000)
    assert peak < 300 * 1024 * 1024
    code, output = site.run("results", "big", "-o", "again.jsonl", *site.servers)
    assert code == 12, output
    assert (site.folder / "again.jsonl").read_bytes() == (site.folder / "out.jsonl").read_bytes()


def test_sent_now_and_collected_later(site: Site) -> None:
    site.write("later.jsonl", 3000)
    line = ["submit", "twice", "later.jsonl", "-o", "later.out.jsonl", "--job", "later", *site.servers]
    code, output = site.run(*line, "--no-wait")
    assert code == 0, output
    assert "sent" in output
    assert "later" in site.run("list")[1]
    code, output = site.run(*line)
    assert code == 0, output
    site.check("later.out.jsonl", 3000)


def test_a_cancelled_job_does_not_go_on(site: Site) -> None:
    site.write("cancelled.jsonl", 200_000)
    line = ["submit", "twice", "cancelled.jsonl", "-o", "cancelled.out.jsonl", "--job", "off", *site.servers]
    process = site.start(*line)
    wait_for(
        "answers",
        lambda: (site.folder / "cancelled.out.jsonl").exists() and (site.folder / "cancelled.out.jsonl").stat().st_size,
    )
    code, output = site.run("cancel", "off", *site.servers)
    assert code == 0, output
    assert "is cancelled after" in output
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 9, said
    assert "cancelled" in site.run("status", "off")[1]
    code, output = site.run(*line)
    assert code == 3, output


def test_a_missing_model_or_broker_is_said_before_the_first_row(site: Site) -> None:
    site.write("few.jsonl", 3)
    code, output = site.run("submit", "none", "few.jsonl", "-o", "few.out", *site.servers)
    assert code == 4, output
    assert "model 'none' is not ready" in output
    nowhere = ["--kafka", "127.0.0.1:9", "--redis", site.fleet.redis, "--connect-timeout", "1"]
    code, output = site.run("submit", "twice", "few.jsonl", "-o", "few.out", *nowhere)
    assert code == 7, output
    assert "did not answer" in output
    assert not (site.folder / "few.out").exists()
