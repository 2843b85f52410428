"""docs/repository.md, run as written: every command, in order, against the server that it starts."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.client import Client
from tests.integration.fleet import Process, wait_for

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "repository.md").read_text()


def shell(lines: str, folder: Path, url: str) -> list[str]:
    """What each line printed, run with this Python's commands."""
    python = f"{shlex.quote(sys.executable)} -m penstock"
    printed = []
    for line in lines.splitlines():
        done = subprocess.run(
            ["bash", "-e", "-c", f'penstock() {{ {python} "$@"; }}\n{line}'], capture_output=True, text=True, cwd=folder,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(folder), "PENSTOCK_URL": url}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        printed.append(done.stdout)
    return printed


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_command_of_the_page(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "models" / "sums" / "1").mkdir(parents=True)
    (tmp_path / "models" / "sums" / "1" / "model.py").write_text(code)
    serve, load, other, options, unload, http = re.findall(r"```sh\n(.*?)\n```", PAGE, re.DOTALL)
    _, command, *flags = shlex.split(serve)
    flags = [str(tmp_path / flag) if flag in ("models", "data") else flag for flag in flags]
    process = Process("serve", tmp_path / "serve.log", command, *flags, "--model-cache-dir", str(tmp_path / "cache"))
    try:
        with Client(process.url) as client:
            wait_for("the server", client.ready, within=120)
        loaded, answered, status = shell(load, tmp_path, process.url)
        assert loaded == "sums is loaded on embedded\n"
        assert "SUM [1, 1] = [[3.]]" in answered
        assert re.search(r"^  embedded  READY\n            version 1 READY [0-9a-f]{64}$", status, re.MULTILINE), status

        _, replaced, brought = shell(other, tmp_path, process.url)
        assert replaced == "sums is loaded on embedded; with a configuration of its load call\n"
        assert brought.startswith("other is loaded on embedded")

        leased, pinned, unpinned, idle = shell(options, tmp_path, process.url)
        assert "lease until " in leased
        assert "; pinned" in pinned
        assert "pinned" not in unpinned
        assert "lease" not in unpinned
        assert "; evicted after 900 s without a request; 1 replica(s)" in idle

        gone, listed = shell(unload, tmp_path, process.url)
        assert gone == "sums is unloaded\n"
        assert re.search(r"^sums +1 +UNAVAILABLE +unloaded$", listed, re.MULTILINE), listed
        assert re.search(r"^other +1 +READY$", listed, re.MULTILINE), listed

        empty, state, index, ended = shell(http, tmp_path, process.url)
        assert (empty, ended) == ("", "")
        assert json.loads(state)["desired"]["idle_after_s"] == 900
        assert {"name": "sums", "version": "1", "state": "READY"} in json.loads(index)
    finally:
        process.stop()
