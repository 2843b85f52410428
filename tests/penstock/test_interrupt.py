"""One Ctrl-C at any moment ends a server and all its processes within two seconds, without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.integration.fleet import wait_for
from tests.workers.fleet import write_model

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
SECONDS = 2.0
SLACK = 1.0
"""Additional seconds, because the test machine may be busy."""
CONFIG = """
backend: "python" max_batch_size: 8
input [ { name: "X" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 1 ] } ]
parameters { key: "instance_isolation" value { string_value: "%s" } }
"""
SLOW = """
    import os, pathlib, subprocess, time
    HERE = pathlib.Path(__file__).parent

    def start():
        nowhere = subprocess.DEVNULL
        return subprocess.Popen(["sleep", "300"], start_new_session=True, stdout=nowhere, stderr=nowhere)

    def here(name):
        (HERE / "new").write_text(f"{os.getpid()} {start().pid}")
        (HERE / "new").rename(HERE / name)

    if WHEN == "import":
        here("busy")
        time.sleep(300)

    class Model:
        def __init__(self):
            if WHEN == "load":
                here("busy")
                time.sleep(300)

        def predict(self, X):
            if X[0, 0] > 0:
                here("busy")
                time.sleep(float(X[0, 0]))
            return {"Y": X}
"""


def model(folder: Path, when: str, isolation: str) -> Path:
    """The file that exists once the model is busy, with its process ids."""
    code = textwrap.dedent(SLOW).replace("WHEN", repr(when))
    write_model(folder, "m", CONFIG % isolation, {"model.py": code})
    return folder / "m" / "1" / "busy"


@contextmanager
def started(*line: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in its own session, like a shell's job; killed if a test fails."""
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def interrupted(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Its exit code and the rest of its output."""
    os.kill(process.pid, signal.SIGINT)
    begun = time.monotonic()
    said, _ = process.communicate(timeout=30)
    took = time.monotonic() - begun
    assert b"Traceback" not in said, said.decode()
    assert took < SECONDS + SLACK, f"it took {took:.1f} s\n{said.decode()}"
    return process.returncode, said.decode()


def gone(file: Path) -> bool:
    """Whether the model's process and its children have ended."""
    for pid in map(int, file.read_text().split()):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                return False
        except FileNotFoundError:
            continue
    return True


@pytest.mark.parametrize("module", ["penstock.entry", "click", "structlog", "uvloop", "numpy"])
def test_while_a_server_imports_its_modules(tmp_path: Path, module: str) -> None:
    model(tmp_path, "never", "process")
    line = [sys.executable, "-X", "importtime", "-m", "penstock", "serve", "--model-repository", str(tmp_path)]
    with started(*line, "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0") as process:
        assert process.stdout is not None
        for said in process.stdout:
            if said.rstrip().endswith(b" " + module.encode()):
                break
        code, _ = interrupted(process)

    assert code in (-signal.SIGINT, 0)


@pytest.mark.parametrize("isolation", ["process", "thread"])
@pytest.mark.parametrize("when", ["import", "load"])
@pytest.mark.parametrize("command", ["serve", "worker"])
def test_while_a_slow_model_loads(tmp_path: Path, command: str, when: str, isolation: str) -> None:
    busy = model(tmp_path / "models", when, isolation)
    line = serving(tmp_path)
    if command == "worker":
        line = [sys.executable, "-c", SUPERVISED, str(tmp_path / "models")]
    with started(*line) as process:
        wait_for("the load", busy.exists, 150)  # a worker that starts yields the CPU
        code, said = interrupted(process)
        if isolation == "process":
            wait_for("the end of the model's processes", lambda: gone(busy))
        else:
            os.kill(int(busy.read_text().split()[1]), signal.SIGKILL)

    if code == 0:
        assert "stopped by a signal before everything was loaded" in said
    elif code == 128 + signal.SIGKILL:  # on a busy machine its supervisor ends it before it has ended itself
        assert "the worker does not exit; it is killed" in said
    else:  # nothing can interrupt a thread
        assert code == 128 + signal.SIGINT
        assert "ended by SIGINT after" in said


def serving(tmp_path: Path) -> list[str]:
    """The command line of a server for these models."""
    options = ["--model-repository", str(tmp_path / "models"), "--http-port", "0", "--metrics-port", "0"]
    return [sys.executable, "-m", "penstock", "serve", *options]


SUPERVISED = """
import sys
from pathlib import Path
from protocol.runtime import logs, loop
from protocol.transport.settings import TransportSettings
from workers.settings import WorkerSettings
from workers.supervision.supervisor import supervise
logs.configure("human")
settings = WorkerSettings(model_repository=(Path(sys.argv[1]),), metrics_port=0)
sys.exit(loop.run(supervise(settings, TransportSettings())))
"""


@contextmanager
def calling(tmp_path: Path, seconds: float, isolation: str) -> Iterator[tuple[subprocess.Popen[bytes], list[object]]]:
    """A server with a call that runs for this long, and the list that gets its answer."""
    busy = model(tmp_path / "models", "never", isolation)
    answers: list[object] = []
    line = serving(tmp_path)
    with started(*line) as process:
        assert process.stdout is not None
        url = next(
            word.rstrip(b";").decode()
            for said in process.stdout
            for word in said.split()
            if word.startswith(b"http://")
        )
        body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 1], "data": [seconds]}]}

        def call() -> None:
            try:
                answers.append(httpx.post(f"{url}/v2/models/m/infer", json=body, timeout=60).status_code)
            except httpx.HTTPError as exc:
                answers.append(exc)

        thread = threading.Thread(target=call)
        thread.start()
        wait_for("the run", busy.exists)
        yield process, answers
        thread.join()
        if isolation == "thread":
            os.kill(int(busy.read_text().split()[1]), signal.SIGKILL)


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_while_a_request_runs_for_long(tmp_path: Path, isolation: str) -> None:
    with calling(tmp_path, 300.0, isolation) as (process, answers):
        code, said = interrupted(process)
        if isolation == "process":
            wait_for("the end of the model's processes", lambda: gone(tmp_path / "models/m/1/busy"))

    assert code in (0, 128 + signal.SIGINT)
    assert "not everything was answered" in said
    assert answers != [200]


def test_a_request_that_is_quick_is_answered_first(tmp_path: Path) -> None:
    with calling(tmp_path, 0.4, "process") as (process, answers):
        code, said = interrupted(process)

    assert (code, answers) == (0, [200])
    assert "stopped" in said.rstrip().splitlines()[-1]
