"""docs/pytorch.md, run as written: every file of Python that it shows, and every command."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.client import Client
from tests.integration.fleet import Process, wait_for
from tests.penstock.test_first_model import shell

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "pytorch.md").read_text()
FILES = dict(re.findall(r"^```(?:python|pbtxt) (\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^```sh\n(.*?)\n```", PAGE, re.MULTILINE | re.DOTALL)
SERVED = [shlex.split(line)[2:] for line in COMMANDS if line.startswith("penstock serve")]
MAKERS = ["export.py", "trace.py", "script.py", "weights.py", "export_weights.py"]
PACKAGE = "fast.pt2"
"""What compile.py makes, if there is a compiler."""
_MAKE = "import runpy, sys, warnings; warnings.simplefilter('ignore'); [runpy.run_path(name) for name in sys.argv[1:]]"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With every file that the page makes."""
    pytest.importorskip("torch")
    place = tmp_path_factory.mktemp("pytorch")
    for name, text in FILES.items():
        (place / name).write_text(text)
    makers = [*MAKERS, "compile.py"] if shutil.which("g++") else MAKERS
    environment = {**os.environ, "PYTHONPATH": str(place), "TORCHINDUCTOR_CACHE_DIR": str(place / "cache")}
    subprocess.run([sys.executable, "-c", _MAKE, *makers], cwd=place, check=True, env=environment)
    return place


def test_the_page_is_run_as_a_whole() -> None:
    assert {*MAKERS, "compile.py", "net.py", "config.pbtxt"} == FILES.keys()
    assert [words[0] for words in SERVED] == ["net.pt2", PACKAGE, "traced.pt", "scripted.pt", "weights.pt2"]
    assert [line for line in COMMANDS if not line.startswith("penstock serve")] == [
        "pip install 'penstock[torch]'",
        "penstock infer net --random 3",
    ]


def answers(folder: Path, *arguments: str) -> dict[str, str]:
    """By model, what `penstock infer` prints for three random rows; the files are served by one process."""
    process = Process("serve", folder / f"{Path(arguments[0]).stem}.log", "serve", *arguments)
    try:
        with Client(process.url) as client:
            wait_for("the server", client.ready, within=200)  # imports torch, and yields the CPU
            names = [entry["name"] for entry in client.models()]
            assert {client.get(f"/v2/models/{name}/config")["max_batch_size"] for name in names} == {32}
        return {name: shell(f"penstock infer {name} --random 3 --url {process.url}", folder) for name in names}
    finally:
        process.stop()


def test_each_file_without_flags_is_served(folder: Path) -> None:
    files = [words[0] for words in SERVED if len(words) == 1 and (folder / words[0]).exists()]
    said = answers(folder, *[str(folder / file) for file in files])
    assert sorted(said) == sorted(Path(file).stem for file in files)
    for text in said.values():
        assert "scores [3, 3]" in text
        assert "best [3" in text


@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor compiles with g++, which is not installed")
def test_the_package_was_compiled_and_so_was_served(folder: Path) -> None:
    assert (folder / PACKAGE).exists()


def test_the_file_with_stated_inputs_is_served(folder: Path) -> None:
    ((file, *flags),) = [words for words in SERVED if len(words) > 1]
    assert "OUTPUT__0 [3, 3]" in answers(folder, str(folder / file), *flags)["scripted"]


def test_the_configuration_of_the_page_completes_a_scripted_module(folder: Path) -> None:
    place = folder / "models" / "scripted" / "1"
    place.mkdir(parents=True)
    shutil.copy(folder / "scripted.pt", place / "model.pt")
    shutil.copy(folder / "config.pbtxt", place.parent)
    checked = shell("penstock check models --run", folder)
    assert re.search(r"^scripted: .*looked at: configuration, model file, a request of zeros", checked, re.MULTILINE), (
        checked
    )
