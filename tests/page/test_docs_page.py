"""docs/page.md: its commands run as written, but for ports, and its pictures can be taken."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.integration.fleet import Process, wait_for
from tests.page.conftest import ROOT, ready
from tests.page.screenshots import shoot

TEXT = (ROOT / "docs" / "page.md").read_text()
COMMANDS = dict(re.findall(r"^```sh (\w+)\n(.*?)\n```", TEXT, re.MULTILINE | re.DOTALL))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def serve(name: str, folder: Path) -> Process:
    program, *arguments = shlex.split(COMMANDS[name])
    assert program == "penstock"
    process = Process("serve", folder / "serve.log", *arguments, tree=ROOT)
    wait_for("the server", lambda: ready(process.url))
    return process


def says(name: str, process: Process) -> str:
    command = COMMANDS[name].replace("localhost:8000", f"localhost:{process.http_port}")
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout


def test_every_command_has_a_test() -> None:
    assert list(COMMANDS) == ["serve", "off", "overview", "backlogs", "metrics", "pictures"]
    assert len(re.findall(r"^```", TEXT, re.MULTILINE)) == 2 * len(COMMANDS)


def test_the_server_and_what_is_beneath(tmp_path: Path) -> None:
    process = serve("serve", tmp_path)
    try:
        assert "<!doctype html>" in httpx.get(process.url, headers={"accept": "text/html"}).text
        assert json.loads(says("overview", process))["models"][0]["name"] == "digits"
        assert json.loads(says("backlogs", process))["models"][0]["model"] == "digits"
        assert f":{process.metrics_port}/metrics" in says("metrics", process)
    finally:
        process.stop()


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    process = serve("off", tmp_path)
    try:
        assert httpx.get(process.url, headers={"accept": "text/html"}).status_code == 404
    finally:
        process.stop()


def test_the_pictures_are_those_of_the_page(browser: object, tmp_path: Path) -> None:
    """The fixture skips this where no browser is."""
    assert COMMANDS["pictures"] == "python -m tests.page.screenshots docs/page"
    shoot(tmp_path, seconds=2.0)
    shown = set(re.findall(r"\(page/(\w+\.png)\)", TEXT))
    assert (
        {file.name for file in tmp_path.glob("*.png")}
        == shown
        == {file.name for file in (ROOT / "docs" / "page").iterdir()}
    )
    for name in shown:
        kept = (ROOT / "docs" / "page" / name).read_bytes()
        assert size((tmp_path / name).read_bytes()) == size(kept)
        assert len(kept) < 100_000


def size(picture: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(picture)).size
