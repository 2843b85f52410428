"""`penstock serve` as a user runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from penstock.client import Client
from protocol.errors import Code, FleetError
from tests.integration.fleet import Process, wait_for
from tests.integration.repositories import COUNT, executed, write_model

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def serve(tmp_path: Path, *arguments: str) -> Process:
    process = Process("serve", tmp_path / f"serve-{len(list(tmp_path.glob('serve-*')))}.log", "serve", *arguments)

    def ready() -> bool:
        assert process.process.poll() is None, process.tail()
        with Client(process.url) as client:
            return client.ready()

    wait_for("the server", ready)
    return process


def test_the_curl_line_that_is_printed_works(tmp_path: Path) -> None:
    process = serve(tmp_path, str(ROOT / "examples/digits/models/digits/1/model.onnx"))
    line = wait_for("the example", lambda: re.search(r"^  (curl .*)$", process.log.read_text(), re.MULTILINE))[1]

    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    code = process.stop()

    assert json.loads(done.stdout)["model_name"] == "model"
    assert code == 0


def test_infer_prints_an_answer_for_made_up_inputs(tmp_path: Path) -> None:
    process = serve(tmp_path, "--model-repository", str(ROOT / "examples/digits/models"))
    line = [sys.executable, "-m", "penstock", "infer", "digits", "--random", "3", "--url", process.url]

    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)
    process.stop()

    assert done.returncode == 0, done.stderr
    assert "digit [3, 1] = " in done.stdout


def test_a_durable_queue_survives_a_kill_and_runs_what_was_left(tmp_path: Path) -> None:
    counter = tmp_path / "runs"
    write_model(tmp_path / "models", "count", COUNT % str(counter))
    flags = ("--model-repository", str(tmp_path / "models"), "--data-dir", str(tmp_path / "data"))
    first = serve(tmp_path, *flags)
    with Client(first.url) as client:
        done = client.submit("count", {"NUMBER": np.array([[-1]])})
        assert client.result(done, wait=20) is not None
        left = [client.submit("count", {"NUMBER": np.array([[number]])}) for number in (700, 701, 702)]
    first.kill()

    second = serve(tmp_path, *flags)
    with Client(second.url) as client:
        answers = [client.result(pending, wait=30) for pending in (done, *left)]
    second.stop()

    assert [int(answer.outputs["NUMBER"][0, 0]) for answer in answers if answer] == [-1, 700, 701, 702]
    assert executed(counter).count(-1) == 1


def test_the_api_key_is_asked_for(tmp_path: Path) -> None:
    flags = ("--model-repository", str(ROOT / "examples/digits/models"), "--host", "0.0.0.0", "--api-key", "s3cret")
    process = serve(tmp_path, *flags)
    image = {"image": np.zeros((1, 1, 8, 8), np.float32)}
    with Client(process.url, api_key="s3cret") as client:
        client.infer("digits", image)
    with Client(process.url, api_key="wrong") as client, pytest.raises(FleetError) as refused:
        client.infer("digits", image)
    process.stop()

    assert refused.value.code is Code.UNAUTHENTICATED
    assert "s3cret" not in process.log.read_text()


def test_sigterm_answers_what_is_in_flight(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "count", COUNT % str(tmp_path / "runs"))
    process = serve(tmp_path, "--model-repository", str(tmp_path / "models"))
    line = [sys.executable, "-m", "penstock", "infer", "count", "-i", "NUMBER=[[1500]]", "--url", process.url]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT) as caller:
        wait_for("the call to run", lambda: executed(tmp_path / "runs") == [1500])
        os.kill(process.process.pid, signal.SIGTERM)
        output, _ = caller.communicate(timeout=30)

    assert caller.returncode == 0
    assert "NUMBER [1, 1] = [[1500]]" in output
    assert process.process.wait(30) == 0
    process.stop()
