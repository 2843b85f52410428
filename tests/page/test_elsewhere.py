"""The curl and the Python that the page prints: each is run, and answers what the page shows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.integration.fleet import Process
from tests.page.browser import Browser, Page
from tests.page.conftest import KEY, MARKUP, ROOT, start

Opened = Callable[[str], Page]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def run(*command: str, folder: Path, **variables: str) -> str:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder), **variables}
    done = subprocess.run(command, capture_output=True, cwd=folder, env=environment, timeout=60, check=False)
    assert done.returncode == 0, f"{command[-1]}\n{done.stderr.decode()}"
    return done.stdout.decode(errors="backslashreplace")


def both(page: Page, folder: Path, **variables: str) -> tuple[str, str]:
    """What the printed curl and the printed Python print."""
    shell = run(
        "bash",
        "-euo",
        "pipefail",
        "-c",
        page.run("document.querySelector('#curl').textContent"),
        folder=folder,
        **variables,
    )
    python = run(
        sys.executable, "-c", page.run("document.querySelector('#python').textContent"), folder=folder, **variables
    )
    return shell, python


def test_text_with_quotes(opened: Opened, tmp_path: Path) -> None:
    page = opened("shout")
    page.fill("#inputs textarea", 'it\'s "quoted" $HOME `id` \\ ü 🙂\nand two')
    shell, python = both(page, tmp_path)
    assert 'it\'s \\"quoted\\" $HOME `id` \\\\ ü 🙂</b>' in shell
    assert repr('<b>it\'s "quoted" $HOME `id` \\ ü 🙂</b>'.encode()) in python
    assert "<b>and two</b>" in shell


def test_numbers_and_odd_names(opened: Opened, tmp_path: Path) -> None:
    page = opened(quote(MARKUP))
    page.fill("#inputs textarea", "1 2.5 -3 4e2")
    page.fill("fieldset:nth-of-type(2) textarea", "9223372036854775807 -7")
    for printed in both(page, tmp_path):
        assert "800" in printed
        assert "9223372036854775807" in printed


def test_half_precision_has_no_json(opened: Opened, tmp_path: Path) -> None:
    page = opened("half")
    page.fill("#inputs textarea", "1.5 -0.25 1000")
    shell, python = both(page, tmp_path)
    assert "binary_data_size" in python
    assert shell == ""
    assert (tmp_path / "answer.bin").read_bytes().endswith(b"\x00\x42\x00\xb8\xd0\x67")  # 3, -0.5, 2000


def test_a_long_body_is_saved_first(opened: Opened, browser: Browser, tmp_path: Path) -> None:
    browser.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page = opened("digits")
    page.fill("#inputs input[type=text]", "30, 1, 8, 8")
    page.wait("!document.querySelector('#body-note').hidden")
    page.click("#save")
    for _ in range(100):
        if (tmp_path / "request.bin").exists() and (tmp_path / "request.bin").stat().st_size:
            break  # the browser makes the file before it fills it
        page.pump(0.1)
    shell, python = both(page, tmp_path)
    assert '"shape":[30,10]' in shell
    assert '"shape":[30,10]' in python


@pytest.fixture(scope="module")
def keyed(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = start(tmp_path_factory.mktemp("keyed"), "--api-key", KEY, models=("shout",))
    try:
        yield process
    finally:
        process.stop()


def test_the_key_comes_from_the_environment(browser: Browser, keyed: Process, tmp_path: Path) -> None:
    page = browser.open(keyed.url)
    page.wait_text("#key-form", "API key")
    page.type(KEY)
    page.press("Enter")
    page.wait_text("#rows", "shout")
    for printed in both(page, tmp_path, PENSTOCK_API_KEY=KEY):
        assert "<b>hello</b>" in printed
    assert "401" in run(
        "bash", "-c", page.text("#curl") + " -w '%{http_code}'", folder=tmp_path, PENSTOCK_API_KEY="another"
    )
    page.close()


def test_copy_puts_it_on_the_clipboard(opened: Opened, browser: Browser, server: Process) -> None:
    browser.send(
        "Browser.grantPermissions", origin=server.url, permissions=["clipboardReadWrite", "clipboardSanitizedWrite"]
    )
    page = opened("shout")
    page.click("button[data-copies=curl]")
    page.wait_text("#copied", "Copied")
    assert page.run("navigator.clipboard.readText()") == page.run("document.querySelector('#curl').textContent")
