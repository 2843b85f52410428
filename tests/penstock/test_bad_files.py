"""What `penstock serve` and `penstock check` say to files that are no models; a person has read golden/bad_files.txt for sense."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.penstock.bad_files import GOLDEN, NAMES, ROOT, printed, serve_each, write_files
from workers.repository.completion import SUFFIX_BACKEND

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    place = tmp_path_factory.mktemp("bad")
    write_files(place)
    return place


def test_what_is_printed_is_what_was_read(folder: Path) -> None:
    """Write it again, and read it, with: python -m tests.penstock.bad_files"""
    assert serve_each(folder) == GOLDEN.read_text()
    assert not (folder / "unpickled").exists()


@pytest.mark.parametrize(("log_format", "times"), [("human", 1), ("json", 2)])
def test_why_is_read_once_on_a_terminal_and_is_in_the_record_for_programs(
    folder: Path, log_format: str, times: int
) -> None:
    command = [sys.executable, "-m", "penstock", "serve", "empty.onnx", "--log-format", log_format, "--http-port", "0"]
    ended = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )  # fmt: skip
    assert ended.returncode == 3
    assert ended.stderr.count("is empty; copy or export it again") == times
    assert ended.stderr.splitlines()[-1].startswith("penstock: model 'empty' version 1 cannot be loaded: ")


def test_check_says_the_same_as_serve(folder: Path, tmp_path: Path) -> None:
    answer = r"^\$ penstock serve (\S+)\npenstock: model \S+ version 1 cannot be loaded: (.*)$"
    served = dict(re.findall(answer, GOLDEN.read_text(), re.MULTILINE))
    names = [name for name in NAMES if Path(name).suffix in SUFFIX_BACKEND and name != "scripted.pt"]
    assert set(names) <= served.keys()
    for name in names:
        place = tmp_path / name.replace(".", "_") / "1"
        place.mkdir(parents=True)
        (place / f"model{Path(name).suffix}").write_bytes((folder / name).read_bytes())

    checked = dict(
        re.findall(r"^(\S+): refused.*\n    version 1: (.*)$", printed(tmp_path, f"check {tmp_path}"), re.MULTILINE)
    )

    for name in names:
        model = name.replace(".", "_")
        inside = f"/models/{model}/1/model{Path(name).suffix}"
        assert checked[model].replace(inside, f"/models/{name}") == served[name]
