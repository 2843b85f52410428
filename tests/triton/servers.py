"""The two servers that are compared, each with its own copy of the models."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from infra.local.process import free_port
from penstock.client import Client
from tests.integration.fleet import Process, wait_for
from tests.triton.case import Case
from tests.triton.playing import Server, play

HERE = Path(__file__).parent
CONTROL = ("--model-control-mode=explicit", "--load-model=*")


def copied(folder: Path) -> Path:
    shutil.copytree(HERE / "models", folder / "models", ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "models"


@contextlib.contextmanager
def penstock(folder: Path) -> Iterator[Server]:
    """An embedded fleet."""
    flags = ("--no-exit-on-error", "--allow-shared-memory", *CONTROL)
    process = Process("serve", folder / "log", "serve", "--model-repository", str(copied(folder)), *flags)
    try:

        def loaded() -> bool:
            assert process.process.poll() is None, process.tail()
            with Client(process.url) as client:
                return client.ready() and all(
                    entry.get("state") in ("READY", "UNAVAILABLE") for entry in client.models()
                )

        wait_for("the models", loaded, within=120)
        yield Server(process.url, f"127.0.0.1:{process.grpc_port}", f"http://127.0.0.1:{process.metrics_port}")
    finally:
        process.stop()


@contextlib.contextmanager
def triton(folder: Path, venv: Path) -> Iterator[Server]:
    """The Triton of the wheel nvidia-pytriton in a virtual environment."""
    http_port, grpc_port, metrics_port = free_port(), free_port(), free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.triton.servers",
                str(venv),
                str(copied(folder)),
                str(http_port),
                str(metrics_port),
                str(grpc_port),
            ],
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": str(HERE.parents[1])},
        )
    server = Server(f"http://127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{metrics_port}")
    try:

        def answers() -> bool:
            assert process.poll() is None, (folder / "log").read_text(errors="replace")[-2000:]
            with contextlib.suppress(OSError):
                return play(server.http, Case("", "GET", "/v2")).status == 200
            return False

        wait_for("Triton", answers, within=120)
        wait_until_loaded(server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_until_loaded(server: Server) -> None:
    """Return once the server has tried to load every model."""
    names = {folder.name for folder in (HERE / "models").iterdir()}
    while True:
        index = play(server.http, Case("", "POST", "/v2/repository/index")).body
        if names <= {entry["name"] for entry in index if entry.get("state") in ("READY", "UNAVAILABLE")}:
            return
        time.sleep(0.1)


def become_triton(venv: str, repository: str, *ports: str) -> None:
    """Become the server; see `loadtest.triton.start`."""
    from loadtest.triton import TritonChoice, start

    python = str(Path(venv) / "bin" / "python")
    home = Path(repository).parent / "home"
    http_port, metrics_port, grpc_port = map(int, ports)
    options = (*CONTROL, "--exit-on-error=false", "--strict-readiness=false")
    start(TritonChoice(python, python, home), Path(repository), http_port, metrics_port, grpc_port, *options)


if __name__ == "__main__":
    become_triton(*sys.argv[1:])
