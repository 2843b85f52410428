"""The page before servers of other kinds: two versions of a model, protected routes, IPv6."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.fleet import Process
from tests.page.browser import Browser
from tests.page.conftest import MODELS, start, write_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def versions(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Two versions of a model, on IPv6."""
    folder = tmp_path_factory.mktemp("versions")
    write_models(folder / "models", "half")
    (folder / "models" / "half" / "2").mkdir()
    (folder / "models" / "half" / "2" / "model.py").write_text(
        textwrap.dedent(MODELS["half"]).replace("X + X", "4 * X")
    )
    (folder / "models" / "half" / "config.pbtxt").write_text("version_policy { all {} }\n")
    process = start(folder, "--host", "::1")
    try:
        yield process
    finally:
        process.stop()


def test_a_version_is_chosen_and_named_in_the_calls(browser: Browser, versions: Process) -> None:
    page = browser.open(f"http://[::1]:{versions.http_port}/#model=half&version=1")
    page.wait_text("#connection", "Live")
    for version, answer in (("1", "3"), ("2", "6")):
        page.click(f"#rows tr:nth-child({version}) button")
        page.wait_text("#chosen-title", f"half, version {version}")
        assert f"http://[::1]:{versions.http_port}/v2/models/half/versions/{version}/infer" in page.text("#curl")
        page.fill("#inputs textarea", "1.5 0 0")
        page.click("#send")
        page.wait_text("#outputs", answer)
    assert page.run("location.hash") == "#model=half&version=2"
    assert page.problems() == []
    page.close()


def test_what_is_protected_is_said(browser: Browser, tmp_path: Path) -> None:
    process = start(tmp_path, "--http-restricted-api", "statistics:admin-key=secret", models=("half",))
    page = browser.open(process.url)
    try:
        said = page.wait_text("#connection", "The server cannot tell")
        assert "expecting header 'admin-key'" in said
        assert page.problems() == []
    finally:
        page.close()
        process.stop()
