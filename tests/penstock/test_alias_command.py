"""`penstock models alias` against a real server, whose aliases survive a restart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from penstock.client import Client
from tests.penstock.test_serve import ROOT, serve

VERSION = """
class Model:
    inputs = {{"NUMBER": ("INT64", [1])}}
    outputs = {{"NUMBER": ("INT64", [1])}}
    max_batch_size = 8

    def predict(self, NUMBER):
        return {{"NUMBER": NUMBER + {version}}}
"""


def write_versions(repository: Path, *versions: int) -> None:
    """A model that adds its version."""
    for version in versions:
        folder = repository / "m" / str(version)
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(VERSION.format(version=version))
    (repository / "m" / "config.pbtxt").write_text("version_policy { all { } }")


def alias(url: str, *arguments: str) -> tuple[int, str]:
    line = [sys.executable, "-m", "penstock", "models", "alias", *arguments, "--url", url]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_an_alias_is_set_by_the_command_and_survives_a_kill(tmp_path: Path) -> None:
    write_versions(tmp_path / "models", 3, 4)
    flags = ("--model-repository", str(tmp_path / "models"), "--data-dir", str(tmp_path / "data"))
    first = serve(tmp_path, *flags)

    assert alias(first.url, "list") == (0, "no aliases; set one with: penstock models alias set MODEL prod=1\n")
    assert alias(first.url, "set", "m", "prod=3", "--shadow", "4:0.5") == (0, "m@prod  3:1  shadow 4:0.5\n")
    assert alias(first.url, "set", "m", "prod=4") == (0, "m@prod  4:1\n")
    assert alias(first.url, "rollback", "m") == (0, "m@prod  3:1  shadow 4:0.5\n")
    code, text = alias(first.url, "set", "m", "prod=9")
    assert code != 0
    assert "version 9 is not found" in text
    assert alias(first.url, "set", "m", "prod=3=4")[0] != 0
    first.kill()

    second = serve(tmp_path, *flags)
    with Client(second.url) as client:
        answer = client.infer("m@prod", {"NUMBER": np.array([[10]])})
        listed = client.get("/v2/repository/models/m/aliases")
        plain = client.infer("m", {"NUMBER": np.array([[10]])})
    gone = alias(second.url, "delete", "m", "prod")
    second.stop()

    assert (answer.version, int(answer.outputs["NUMBER"][0, 0])) == ("3", 13)
    assert plain.version == "4"
    assert listed["previous"] == {"prod": {"versions": {"4": 1}}}
    assert gone == (0, "no aliases; set one with: penstock models alias set MODEL prod=1\n")
