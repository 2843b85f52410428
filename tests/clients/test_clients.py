"""Triton's and KServe's clients, unmodified, against an embedded fleet and one on Kafka and Redis.

The clients run in an environment of their own (`make .venv-clients/.ready`): a missing one is a failure, not a skip.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.client import Client
from tests.integration.fleet import Process, fleet, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.servers, pytest.mark.timeout(300), pytest.mark.xdist_group("clients")]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
FILES = ("calls_http", "calls_http_aio", "calls_grpc", "calls_grpc_aio", "calls_kserve", "calls_perf_analyzer")
MODELS = ("behaves", "loadable", "noinputs", "plain", "priority", "sum", "text", "types", "versions")
CONTROL = ("--model-control-mode", "explicit", "--load-model", "*")

Run = Callable[[str], dict[str, str]]


def checks(file: str) -> list[str]:
    return re.findall(r"^(?:async )?def (check_\w+)", (HERE / f"{file}.py").read_text(), re.MULTILINE)


def outcomes(file: str, process: Process, *more: str) -> dict[str, str]:
    """What became of each check of a file: "" or a traceback."""
    assert PYTHON.exists(), f"{PYTHON} is not there: make .venv-clients/.ready"
    places = [f"127.0.0.1:{port}" for port in (process.http_port, process.grpc_port, process.metrics_port)]
    if more:
        places = [place.replace("127.0.0.1", "localhost") for place in places]
    done = subprocess.run(
        [PYTHON, HERE / f"{file}.py", *places, *more], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def repository(folder: Path) -> Path:
    for name in MODELS:
        shutil.copytree(ROOT / "tests" / "triton" / "models" / name, folder / "models" / name)
    return folder / "models"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("embedded")
    models = str(repository(folder))
    process = Process("serve", folder / "log", "serve", "--model-repository", models, "--allow-shared-memory", *CONTROL)
    try:
        with Client(process.url) as client:
            wait_for("the server", client.ready, within=120)
        yield process
    finally:
        process.stop()


@pytest.fixture(scope="module")
def kafka(kafka_bootstrap: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("fleet")
    with fleet(kafka_bootstrap, redis_url, f"c{time.time_ns() % 10**9}", folder, repository(folder)) as running:
        running.add_gateway("--allow-shared-memory")
        running.add_worker(*CONTROL)
        running.wait_ready(len(MODELS) + 1, within=200)
        yield running.gateways[0]
        running.stop()


@pytest.fixture(scope="module", params=["embedded", "kafka"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs the checks of a file once, and remembers what became of them."""
    process: Process = request.getfixturevalue(request.param)
    return functools.cache(lambda file: outcomes(file, process))


@pytest.mark.parametrize(("file", "check"), [(file, check) for file in FILES for check in checks(file)])
def test_the_client_works(file: str, check: str, run: Run) -> None:
    if "program" in check:
        needs_perf_analyzer()
    failed = run(file)[check]

    assert not failed, failed


def needs_perf_analyzer() -> None:
    """Skip where the program cannot start: it was built for Linux on x86-64, and needs Debian's libb64."""
    program = PYTHON.parents[1] / "perf_analyzer"
    if not program.exists():
        pytest.skip("perf_analyzer is not there: its wheel is for Linux on x86-64")
    missing = re.findall(
        r"(\S+) => not found", subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    )
    if others := [name for name in missing if not name.startswith("libcudart")]:
        pytest.skip(f"perf_analyzer lacks {', '.join(others)}: apt-get install libb64-0d")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, str]]:
    """A fleet with TLS, and the certificate to trust."""
    folder = tmp_path_factory.mktemp("secure")
    certificate, key = folder / "cert", folder / "key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    shutil.copytree(ROOT / "tests" / "triton" / "models" / "versions", folder / "models" / "versions")
    flags = ("--tls-certificate", str(certificate), "--tls-key", str(key))
    process = Process("serve", folder / "log", "serve", "--model-repository", str(folder / "models"), *flags)
    try:
        wait_for(
            "the server",
            lambda: b"gateway is serving" in process.log.read_bytes() and b" ready " in process.log.read_bytes(),
        )
        yield process, str(certificate)
    finally:
        process.stop()


def test_the_clients_work_over_tls(secure: tuple[Process, str]) -> None:
    process, root = secure

    assert outcomes("calls_tls", process, root) == {"check_http": "", "check_grpc": ""}
