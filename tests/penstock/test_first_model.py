"""docs/first-model.md, run as written: every command, in order."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.client import Client
from tests.integration.fleet import Process, wait_for

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "first-model.md").read_text()
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def test_the_page_has_at_most_six_commands_and_each_works(tmp_path: Path) -> None:
    install, train, serve, infer, load, metrics = re.findall(r"```sh\n(.*?)\n```", PAGE, re.DOTALL)
    (tmp_path / "train.py").write_text(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1])  # type: ignore[index]
    assert install.startswith("pip install 'penstock[onnx,loadtest]'")  # this test's virtual environment has these

    trained = shell(train, tmp_path)
    assert re.search(r"accuracy 0\.9|accuracy 1", trained)
    process = Process("serve", tmp_path / "serve.log", *shlex.split(serve)[1:2], str(tmp_path / shlex.split(serve)[2]))
    try:
        with Client(process.url) as client:
            wait_for("the server", client.ready)
        assert "probabilities [4, 3]" in shell(f"{infer} --url {process.url}", tmp_path)
        loaded = shell(load.replace("http://localhost:8000", process.url), tmp_path)
        assert re.search(r"\b300", loaded), loaded
        counted = shell(metrics.replace("localhost:8002", f"localhost:{process.metrics_port}"), tmp_path)
        assert "nv_inference_count" in counted
        assert "reason=" in counted
    finally:
        process.stop()


def shell(line: str, folder: Path) -> str:
    """The output of one of the page's lines, run with this Python's commands."""
    python = shlex.quote(sys.executable)
    line = re.sub(r"^python\b", python, line)
    line = re.sub(r"^penstock\b", f"{python} -m penstock", line)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(folder)},
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(240)
def test_a_torchscript_file_is_served_with_the_configuration_that_the_page_shows(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (config,) = re.findall(r"^  ```\n(.*?)^  ```", PAGE, re.MULTILINE | re.DOTALL)
    folder = tmp_path / "models" / "net"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config)
    code = "import torch; torch.jit.script(torch.nn.Linear(4, 2)).save('models/net/1/model.pt')"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, check=True)

    process = Process("serve", tmp_path / "serve.log", "serve", "--model-repository", str(tmp_path / "models"))
    try:
        with Client(process.url) as client:
            wait_for("the server", client.ready, within=150)  # imports torch, and yields the CPU
        assert "OUTPUT__0 [3, 2]" in shell(f"penstock infer net --random 3 --url {process.url}", tmp_path)
    finally:
        process.stop()
