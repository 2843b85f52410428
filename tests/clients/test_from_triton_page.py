"""docs/from-triton.md, run as written: every command against `penstock serve`, and the client's code in the clients' own Python."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
import yaml

from tests.clients.test_clients import PYTHON, ROOT
from tests.pages import Place
from tests.triton import page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.xdist_group("clients")]

TEXT = page.PAGE.read_text()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("page"))
    shutil.copytree(ROOT / "tests" / "triton" / "models" / "sum", made.folder / "models" / "sum")
    (line,) = re.findall(r"```sh serve\n(.*?)\n```", TEXT, re.DOTALL)
    with made.serving(line):
        yield made


def test_every_command_of_the_page(served: Place) -> None:
    check, calls, control = re.findall(r"```sh\n(.*?)\n```", TEXT, re.DOTALL)

    assert "sum" in served.shell(check)
    said = served.shell(calls)
    assert '"data":[11,22]' in said
    assert said.count("SUM [1, 2] = [[11 22]]") == 2
    watched = served.shell(control)
    assert re.search(r'nv_inference_request_success{[^}]*model="sum"', watched)
    assert '"state":"READY"' in watched.replace(" ", "")


def test_the_clients_code_of_the_page(served: Place) -> None:
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
