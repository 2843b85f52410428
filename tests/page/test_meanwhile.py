"""What happens meanwhile: models are loaded and unloaded, the key changes, somebody clicks twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.page.browser import Browser, Page
from tests.page.conftest import KEY, MODELS, start, write_models

Opened = Callable[[str], Page]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
GATED = """
    import pathlib, time
    class Model:
        inputs = {"A": ("FP32", [4])}
        outputs = {"B": ("FP32", [4])}
        def __init__(self):
            while not pathlib.Path(__file__).with_name("open").exists():
                time.sleep(0.02)
        def predict(self, A):
            return {"B": A}
"""


def test_models_that_are_not_loaded_loading_and_unloaded(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "gated", GATED)
    models = write_models(tmp_path / "models", "half", "gated")
    process = start(tmp_path, "--model-control-mode", "explicit", "--load-model", "half")
    page = browser.open(f"{process.url}/#model=half")
    try:
        page.wait_text("#connection", "Live")
        assert page.text("#total-models") == "1 of 1"
        assert "Not loaded" in page.text("#rows")
        assert page.run("document.querySelector('#attention').hidden")
        page.fill("#inputs textarea", "1 2 3")

        httpx.post(f"{process.url}/v2/repository/models/half/unload", json={})
        page.click("#send")
        assert "no available versions" in page.wait_text("#outputs", "half")
        page.wait_text("#chosen-state", "Not loaded")
        assert "penstock models load 'half'" in page.text("#chosen-reason")
        assert page.run("document.querySelector('#inputs textarea').value") == "1 2 3"  # what was typed stays

        load = threading.Thread(
            target=lambda: httpx.post(f"{process.url}/v2/repository/models/gated/load", json={}, timeout=120)
        )
        load.start()
        page.run("location.hash = '#model=gated'")
        page.wait_text("#chosen-state", "Loading")
        (models / "gated" / "1" / "open").touch()
        load.join()
        page.wait_text("#chosen-state", "Ready")
        page.click("#send")
        page.wait_text("#sending", "Answered in")
        assert page.problems() == []
    finally:
        page.close()
        process.stop()


def test_a_key_that_changes_is_asked_for_again(browser: Browser, tmp_path: Path) -> None:
    process = start(tmp_path, "--api-key", KEY, models=("half",))
    page = browser.open(process.url)
    try:
        page.wait_text("#key-form", "API key")
        page.type(KEY)
        page.press("Enter")
        page.wait_text("#rows", "half")
        page.fill("#inputs textarea", "1 2 3")
        process.stop()
        page.wait_text("#connection", "The server is away")
        process = start(tmp_path, "--api-key", "another", http_port=process.http_port)
        page.wait_text("#key-problem", "does not take this key")
        assert page.focused() == "key"
        page.type("another")
        page.press("Enter")
        page.wait_text("#rows", "half")
        page.click("#send")
        page.wait_text("#sending", "Answered in")
        assert "2  4  6" in page.text("#outputs")  # what was typed is still there
        assert page.problems() == []
    finally:
        page.close()
        process.stop()


def test_two_clicks_send_one_request(opened: Opened) -> None:
    page = opened("slow")
    page.fill("#inputs textarea", "0.5")
    page.run("for (const at of [1, 2, 3]) document.querySelector('#try').requestSubmit()")
    page.wait_text("#sending", "Answered in")
    assert sum(url.endswith("/infer") for url in page.requested()) == 1


def test_a_slow_call_says_how_long_it_has_taken_to_eyes_alone(opened: Opened) -> None:
    page = opened("slow")
    page.fill("#inputs textarea", "3.5")
    page.click("#send")
    page.wait("/^[23] s$/.test(document.querySelector('#elapsed').textContent)")
    assert page.run("document.querySelector('#elapsed').getAttribute('aria-hidden')") == "true"
    assert page.text("#sending") == "Sending…"
    page.click("#cancel")
    page.wait_text("#sending", "Cancelled")
    assert page.run("document.querySelector('#elapsed').textContent") == ""
