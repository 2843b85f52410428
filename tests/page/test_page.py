"""The page at `/` in a real browser, with a real server behind it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from PIL import Image

from penstock.client import Client
from tests.integration.fleet import Process
from tests.page.browser import Page
from tests.page.conftest import MARKUP, ROOT

Opened = Callable[[str], Page]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
DIGITS = np.load(ROOT / "examples" / "digits" / "held_back.npz")


def send(page: Page, words: str = "Answered in") -> str:
    """Press Send; returns what the answer shows."""
    page.run("document.querySelector('#sending').textContent = ''")
    page.click("#send")
    page.wait_text("#sending", words)
    return page.text("#outputs")


def test_it_shows_models_workers_and_how_they_do(opened: Opened, server: Process) -> None:
    with Client(server.url) as client:
        for rows in (1, 1, 4):
            client.infer("digits", {"image": np.zeros((rows, 1, 8, 8), np.float32)})
    page = opened("digits")

    rows = page.run("[...document.querySelectorAll('#rows tr')].map((row) => row.innerText.replace(/\\s+/g, ' '))")
    assert len(rows) == 7
    assert any(re.match(r"digits version 1 Ready .*ms .*ms [0-9.]+ 0 1$", row) for row in rows), rows
    assert any(row.startswith("broken version 1 Unavailable") for row in rows)
    assert page.text("#signature").split() == [
        "Input", "image", "FP32", "any", "×", "1", "×", "8", "×", "8",
        "Outputs", "probabilities", "FP32", "any", "×", "10", "digit", "INT64", "any", "×", "1",
    ]  # fmt: skip
    page.wait_text("#sizes", "4 rows")
    assert "had waited max_queue_delay" in page.text("#releases")
    (counted,) = httpx.get(f"{server.url}/v2/models/digits/stats").json()["model_stats"]
    assert page.wait_text("#figures", f"Answered in all\n{counted['inference_stats']['success']['count']}\n")
    assert "embedded" in page.text("#worker-rows")
    assert page.run("document.querySelector('#metrics').href") == f"http://127.0.0.1:{server.metrics_port}/metrics"
    assert page.text("#total-models") == "6 of 7"


def test_a_model_that_cannot_be_served_says_why(opened: Opened) -> None:
    page = opened("broken")
    assert "RuntimeError: <i>no weights</i>" in page.wait_text("#chosen-reason", "no weights")
    assert page.run("document.querySelector('#try').offsetParent") is None


def test_rates_follow_the_traffic(opened: Opened, server: Process) -> None:
    page = opened("shout")
    with Client(server.url) as client:
        for _ in range(40):
            client.infer("shout", {"TEXT": np.array([["x"]], object)})
    rate = page.wait("document.querySelector('#rows tr.chosen td.number').innerText.match(/^[1-9].*s$/)?.[0]")
    assert re.fullmatch(r"[\d.]+ /s", rate)
    told = page.run("document.querySelector('#chart svg').getAttribute('aria-label')")
    assert re.search(r"now [\d.]+ /s, at most [1-9]", told)


def test_numbers_are_sent_and_the_timing_is_explained(opened: Opened) -> None:
    page = opened(quote(MARKUP))
    page.fill("#inputs textarea", "[1, 2.5\n-0, 4e2]")
    page.fill("fieldset:nth-of-type(2) textarea", "9223372036854775807 -7")
    shown = send(page)
    assert "2  5  0  800" in shown
    assert "9223372036854775807  -7" in shown  # every digit of a 64-bit integer
    timing = page.text("#timing")
    for words in (
        "handed it to the log",
        "It waited for its batch",
        "The model ran",
        "ms",
        "in a batch of 1 row",
    ):
        assert words in timing
    assert "files had digest" in timing


def test_what_is_wrong_is_said_at_the_field(opened: Opened) -> None:
    page = opened(quote(MARKUP))
    first = "fieldset:nth-of-type(1) "
    for typed, said in {
        "1, 2, three, 4": "“three” is not a number",
        "1, 2, 3": "needs 4 values, and there are 3",
        "1e39, 2, 3, 4": "outside the range of FP32",
    }.items():
        page.fill(first + "textarea", typed)
        page.click("#send")
        page.wait_text(first + ".problem", said)
        assert page.run(f"document.activeElement === document.querySelector('{first}textarea')")
        assert page.run("document.activeElement.getAttribute('aria-invalid')") == "true"
    assert not any("/infer" in url for url in page.requested())
    page.fill(first + "textarea", "1, 2, 3, 4")
    assert page.text(first + ".problem") == ""
    page.fill("fieldset:nth-of-type(2) textarea", "1.5, 2")
    page.click("#send")
    page.wait_text("fieldset:nth-of-type(2) .problem", "not an integer")


def test_the_number_of_values_says_how_many_rows_there_are(opened: Opened) -> None:
    page = opened("shout")
    page.fill("#inputs textarea", "one\ntwo\nthree")
    assert page.run("document.querySelector('#inputs input[type=text]').value") == "3, 1"
    assert "<b>two</b>" in send(page)


def test_an_image_is_what_the_model_gets(opened: Opened, tmp_path: Path) -> None:
    pixels, labels = DIGITS[DIGITS.files[0]], DIGITS[DIGITS.files[1]]
    page = opened("digits")
    page.choose("#inputs select", "file")
    for place in (0, 5):
        file = tmp_path / f"{place}.png"
        Image.fromarray(np.round(pixels[place].reshape(8, 8) * 255).astype(np.uint8)).save(file)
        page.give_file("#inputs input[type=file]", file)
        page.wait("!document.querySelector('#inputs canvas').hidden")
        assert re.search(rf"digit INT64, 1 × 1\s+{int(labels[place])}$", send(page).strip())
    assert page.run("document.querySelector('#inputs canvas').getAttribute('aria-label')").endswith("8 by 8 pixels")


def test_an_image_decides_free_sizes_and_keeps_its_colours(opened: Opened, tmp_path: Path) -> None:
    page = opened("picture")
    page.choose("#inputs select", "file")
    Image.new("RGB", (20, 9), (10, 200, 250)).save(tmp_path / "a.png")
    page.give_file("#inputs input[type=file]", tmp_path / "a.png")
    page.wait("!document.querySelector('#inputs canvas').hidden")
    shown = send(page)
    assert "9  20  3" in shown
    assert "10  200  250" in shown
    page.choose("#inputs select[id$=order]", "bgr")
    assert "250  200  10" in send(page)
    (tmp_path / "b.png").write_text("<html>not an image")
    page.give_file("#inputs input[type=file]", tmp_path / "b.png")
    page.wait_text("#inputs .problem", "cannot read that file as an image")


def test_a_call_can_be_cancelled_and_another_one_made(opened: Opened) -> None:
    page = opened("slow")
    page.fill("#inputs textarea", "2")
    page.click("#send")
    page.wait("!document.querySelector('#cancel').hidden")
    assert page.run("document.querySelector('#send').disabled")
    page.click("#cancel")
    page.wait_text("#sending", "Cancelled")
    page.fill("#inputs textarea", "0")
    assert "0" in send(page)


def test_half_precision_goes_and_comes_as_bytes(opened: Opened) -> None:
    page = opened("half")
    page.fill("#inputs textarea", "1.5 -0.25 1000")
    assert "3  -0.5  2000" in send(page)


def test_nothing_that_strangers_write_runs(opened: Opened) -> None:
    page = opened("shout")
    assert MARKUP in page.text("#rows")
    page.fill("#inputs textarea", "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>")
    assert "<b><script>window.hacked=1</script><img src=x onerror=window.hacked=1></b>" in send(page)
    page.run(f"location.hash = 'model=' + {json.dumps(quote(MARKUP))}")
    page.wait_text("#chosen-title", MARKUP)
    assert "<b>B</b>" in page.text("#inputs")
    assert "<script>window.hacked=1</script>" in send(page)
    page.fill("#inputs textarea", "-1 0 0 0")
    assert "<script>window.hacked=1</script> is negative" in send(page, "Refused")
    assert page.run("window.hacked") is None
    assert page.run("document.querySelectorAll('main script, main img, main b, main i').length") == 0


def test_the_filter_hides_models_and_says_how_many_are_left(opened: Opened) -> None:
    page = opened("digits")
    page.fill("#filter", "unavail")
    assert page.wait_text("#shown", "1 of 7")
    assert page.run("[...document.querySelectorAll('#rows tr')].filter((row) => row.offsetParent).length") == 1
    page.run(
        "document.querySelector('#filter').value = ''; document.querySelector('#filter').dispatchEvent(new Event('input'))"
    )
    assert page.text("#shown") == ""


def test_it_asks_for_nothing_while_its_tab_is_hidden(opened: Opened) -> None:
    page = opened("digits")
    page.run(
        "Object.defineProperty(document, 'hidden', {get: () => window.away, configurable: true}); window.away = true;"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.wait_text("#connection", "Paused")
    page.pump(0.5)
    asked = len(page.requested())
    page.pump(2.5)
    assert len(page.requested()) == asked
    page.run("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_text("#connection", "Live")
    assert len(page.requested()) > asked


def test_a_picture_can_be_taken(opened: Opened) -> None:
    """What docs/page.md shows is made so."""
    page = opened("digits")
    page.resize(800, 600)
    assert Image.open(io.BytesIO(page.picture())).size == (800, 600)
