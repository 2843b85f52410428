"""docs/from-triton.md, run as written: every command against `penstock serve`, and the client's code in the clients' own Python."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from infra.local.process import free_port
from penstock.client import Client
from tests.clients.test_clients import PYTHON, ROOT
from tests.integration.fleet import wait_for
from tests.triton import page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.xdist_group("clients")]

TEXT = page.PAGE.read_text()
PENSTOCK = f'penstock() {{ {shlex.quote(sys.executable)} -m penstock "$@"; }}\n'


class Served:
    """The page's server, on free ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {"8000": free_port(), "8001": free_port(), "8002": free_port()}

    @property
    def environment(self) -> dict[str, str]:
        names = {"HTTP": "8000", "GRPC": "8001", "METRICS": "8002"}
        ports = {f"PENSTOCK_{name}_PORT": str(self.ports[port]) for name, port in names.items()}
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(self.folder), **ports}

    def here(self, text: str) -> str:
        """The text with this server's ports."""
        for written, port in self.ports.items():
            text = text.replace(f"localhost:{written}", f"localhost:{port}")
        return text

    def shell(self, lines: str) -> str:
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", PENSTOCK + self.here(lines)],
            capture_output=True, text=True, cwd=self.folder, check=False, env=self.environment, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, f"{lines}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("page"))
    shutil.copytree(ROOT / "tests" / "triton" / "models" / "sum", made.folder / "models" / "sum")
    (line,) = re.findall(r"```sh serve\n(.*?)\n```", TEXT, re.DOTALL)
    with (made.folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {shlex.quote(sys.executable)} -m {line}"],
            stdout=log, stderr=log, cwd=made.folder, env=made.environment,
        )  # fmt: skip
    try:
        with Client(f"http://127.0.0.1:{made.ports['8000']}") as client:
            wait_for("the server", client.ready)
        yield made
    finally:
        process.terminate()
        process.wait(60)


def test_every_command_of_the_page(served: Served) -> None:
    check, calls, control = re.findall(r"```sh\n(.*?)\n```", TEXT, re.DOTALL)

    assert "sum" in served.shell(check)
    said = served.shell(calls)
    assert '"data":[11,22]' in said
    assert said.count("SUM [1, 2] = [[11 22]]") == 2
    watched = served.shell(control)
    assert re.search(r'nv_inference_request_success{[^}]*model="sum"', watched)
    assert '"state":"READY"' in watched.replace(" ", "")


def test_the_clients_code_of_the_page(served: Served) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)

    done = subprocess.run([PYTHON, "-c", served.here(code)], capture_output=True, text=True, check=False, timeout=60)

    assert done.stdout == "[[11 22]]\n[[11 22]]\n", done.stderr


def test_every_flag_of_the_page_exists() -> None:
    rows = re.findall(r"^\| (`--.*?) \| (.*?) \|", TEXT, re.MULTILINE)
    (document,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    named = {flag for _, ours in rows for flag in re.findall(r"--[a-z-]+", ours)}
    for container in yaml.safe_load(document)["containers"]:
        program = container["command"][1]
        flags = {word for word in container["args"] if word.startswith("--")}
        assert flags <= flags_of(program), flags - flags_of(program)

    assert len(rows) > 15
    assert named <= flags_of("serve") | flags_of("gateway"), named - flags_of("serve") - flags_of("gateway")


def flags_of(program: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-m", "penstock", program, "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(re.findall(r"--[a-z-]+", done.stdout))


def test_the_measured_table_is_the_suites() -> None:
    found = page.MARKED.search(TEXT)

    assert found is not None
    assert found[0] == found[1] + page.measured() + found[2], "run python -m tests.triton.page"
