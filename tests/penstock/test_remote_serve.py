"""`penstock serve` and `penstock check` with a repository in a real S3 server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from penstock.client import Client
from tests.integration.fleet import Process, wait_for
from tests.penstock.test_serve import ROOT, serve
from tests.workers.object_store import CREDENTIALS, ObjectStore, object_store

VERSION = """
class Model:
    inputs = {{"NUMBER": ("INT64", [1])}}
    outputs = {{"NUMBER": ("INT64", [1])}}

    def predict(self, NUMBER):
        return {{"NUMBER": NUMBER + {number}}}
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(150),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts servers, which end with the test."""
    processes: list[Process] = []

    def start(*arguments: str) -> Process:
        processes.append(serve(tmp_path, *arguments))
        return processes[-1]

    yield start
    for process in processes:
        process.stop()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with object_store() as made:
        yield made


def answer(url: str) -> int:
    with Client(url) as client:
        return int(client.infer("m", {"NUMBER": np.array([[0]])}).outputs["NUMBER"][0, 0])


def penstock(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "penstock", *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )  # fmt: skip


def test_a_bucket_is_served_followed_and_survives_the_loss_of_its_store(
    store: ObjectStore, tmp_path: Path, started: Callable[..., Process]
) -> None:
    store.put("prod/m/1/model.py", VERSION.format(number=1))
    store.put("prod/bad/../../x/1/model.py", "no")
    flags = (
        "--model-control-mode",
        "poll",
        "--repository-poll-secs",
        "0.5",
        "--model-cache-dir",
        str(tmp_path / "cache"),
    )
    process = started("--model-repository", store.url, "--no-exit-on-error", *flags)
    assert answer(process.url) == 1

    store.put("prod/m/1/model.py", VERSION.format(number=5))
    wait_for("the change to be served", lambda: answer(process.url) == 5, 20)

    store.proxy.down = True
    wait_for("the warning", lambda: b"the loaded models stay" in process.log.read_bytes(), 40)
    assert answer(process.url) == 5
    store.proxy.down = False
    store.put("prod/m/2/model.py", VERSION.format(number=7))
    wait_for("the new version", lambda: answer(process.url) == 7, 30)
    assert process.stop() == 0

    text = process.log.read_text()
    assert "hidden-secret" not in text
    assert "cannot be read" in text


def test_with_explicit_control_a_models_files_are_fetched_when_it_is_loaded(
    store: ObjectStore, tmp_path: Path, started: Callable[..., Process]
) -> None:
    store.put("prod/m/1/model.py", VERSION.format(number=1))
    store.put("prod/huge/1/model.onnx", "x" * 1000)
    flags = ("--model-control-mode", "explicit", "--model-cache-dir", str(tmp_path / "cache"))
    process = started("--model-repository", store.url, *flags)

    def index() -> dict[str, str]:
        return {each["name"]: each.get("state", "") for each in httpx.post(f"{process.url}/v2/repository/index").json()}

    wait_for("the index", lambda: set(index()) == {"m", "huge"}, 30)
    assert store.proxy.gets == []
    loaded = httpx.post(f"{process.url}/v2/repository/models/m/load", json={}, timeout=60)
    assert (loaded.status_code, loaded.text) == (200, "")
    assert answer(process.url) == 1
    assert [key for key, _ in store.proxy.gets] == ["prod/m/1/model.py"]

    store.proxy.down = True
    refused = httpx.post(f"{process.url}/v2/repository/models/huge/load", json={}, timeout=60)
    assert refused.status_code == 400
    assert "its files were not fetched: the model repository could not be read; load it again" in refused.text
    assert answer(process.url) == 1
    store.proxy.down = False


def test_a_store_that_is_away_at_start_is_named(store: ObjectStore, tmp_path: Path) -> None:
    store.proxy.down = True

    done = penstock(
        "serve",
        "--model-repository",
        store.url,
        "--model-cache-dir",
        str(tmp_path),
        "--http-port",
        "0",
        "--metrics-port",
        "0",
    )

    assert done.returncode not in (0, 1)
    assert f"bucket 'models' at http://127.0.0.1:{store.proxy.port} cannot be read" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_check_reads_a_bucket_prints_digests_and_an_allow_list_takes_them(
    store: ObjectStore, tmp_path: Path, started: Callable[..., Process]
) -> None:
    store.put("prod/m/config.pbtxt", "version_policy { all { } }")
    store.put("prod/m/1/model.py", VERSION.format(number=1))
    store.put("prod/m/2/model.py", VERSION.format(number=2))
    store.put("prod/odd/1/a", "x")
    store.put("prod/odd/1/a/b", "x")
    cache = ("--model-cache-dir", str(tmp_path / "cache"))

    checked = penstock("check", store.url, *cache)
    lines = [line.split() for line in checked.stdout.splitlines() if "digest" in line]

    assert "odd: refused" in checked.stdout
    assert "is a file and a folder at once" in checked.stdout
    assert [line[1] for line in lines] == ["1:", "2:"]

    allowed = tmp_path / "allowed"
    allowed.write_text(f"{lines[0][-1]}  m 1, reviewed\n")
    flags = ("--allowed-digests", str(allowed), "--no-exit-on-error", *cache)
    process = started("--model-repository", store.url, *flags)
    with Client(process.url) as client:
        states = {entry["version"]: entry for entry in client.models() if entry["name"] == "m"}
    assert answer(process.url) == 1

    assert states["1"]["state"] == "READY"
    assert states["2"]["state"] == "UNAVAILABLE"
    assert f"its digest {lines[1][-1]} is not in" in states["2"]["reason"]
