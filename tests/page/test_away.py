"""The server goes away and comes back; there are no models yet, or a hundred."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from tests.page.browser import Browser
from tests.page.conftest import MODELS, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def test_it_says_that_the_server_is_away_and_goes_on_when_it_is_back(browser: Browser, tmp_path: Path) -> None:
    process = start(tmp_path, models=("shout",))
    page = browser.open(process.url)
    page.wait_text("#rows", "shout")
    process.kill()
    said = page.wait_text("#connection", "The server is away")
    assert "What is shown is old" in said
    asked = len(page.requested())
    page.click("#send")
    assert "Is it still running?" in page.wait_text("#answer", "does not answer")
    page.wait_text("#connection", "again in 4 s")  # each pause is twice the last
    assert len(page.requested()) <= asked + 3

    again = start(tmp_path, models=("shout",), http_port=process.http_port)
    try:
        page.wait_text("#connection", "Live", within=40)
        page.click("#send")
        page.wait_text("#sending", "Answered in")
        assert page.problems() == []
    finally:
        page.close()
        again.stop()


def test_a_server_without_models_says_how_to_get_one(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    process = start(tmp_path)
    page = browser.open(process.url)
    try:
        assert "penstock new NAME" in page.wait_text("#no-models", "No model is served yet")
        assert page.text("#total-models") == "0 of 0"
        assert page.problems() == []
    finally:
        page.close()
        process.stop()


def test_a_hundred_models_are_readable_and_cheap(browser: Browser, tmp_path: Path) -> None:
    import textwrap

    for number in range(100):
        (tmp_path / "models" / f"model{number:02}" / "1").mkdir(parents=True)
        (tmp_path / "models" / f"model{number:02}" / "1" / "model.py").write_text(textwrap.dedent(MODELS["half"]))
    process = start(tmp_path)
    page = browser.open(f"{process.url}/#model=model77")
    try:
        page.wait_text("#total-models", "100 of 100")
        seen = "((row, box) => row.top > box.top && row.bottom < box.bottom)"
        places = "(selector) => document.querySelector(selector).getBoundingClientRect()"
        assert page.run(f"{seen}(...['tr.chosen', '#table-frame'].map({places}))")
        assert page.run("scrollY") == 0
        page.fill("#filter", "model4")
        page.wait_text("#shown", "10 of 100")
        box = page.run("document.querySelector('#table-frame').getBoundingClientRect().height")
        assert box < 600  # it scrolls by itself
        before = process_seconds(process.process.pid)
        with httpx.Client(base_url=process.url) as client:
            began = time.monotonic()
            for _ in range(20):
                assert len(client.get("/v2/fleet/models").json()["models"]) == 100
        polls = process_seconds(process.process.pid) - before
        print(
            f"a poll of 100 models: {polls / 20 * 1000:.1f} ms of CPU, {(time.monotonic() - began) / 20 * 1000:.1f} ms"
        )
        assert polls / 20 < 0.1
    finally:
        page.close()
        process.stop()


def process_seconds(pid: int) -> float:
    """CPU seconds of a process."""
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
