"""What people read: what needs attention, odd names, rows of numbers, and what hides in text."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from penstock.client import Client
from tests.integration.fleet import Process
from tests.page.browser import Browser, Page
from tests.page.conftest import MARKUP, start, write_models
from tests.page.test_modules import module
from workers.lifecycle.desired import FOR_ROOM, IDLE, LEASE_ENDED, UNLOADED

Opened = Callable[[str], Page]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def found(page: Page, **values: Any) -> list[tuple[str, str]]:
    """Names and words of what needs attention."""
    given = {
        "models": [],
        "workers": [{"worker": "w", "age_ms": 10}],
        "problem": "",
        "waiting": 0,
        "failures": 0,
        **values,
    }
    asked = "it.problems({models, workers, problem}, () => ({failures}), () => waiting)"
    script = f"{asked}.map(({{model, words}}) => [model?.name ?? '', words])"
    return [(name, words) for name, words in module(page, "attention", script, **given)]


def model(name: str = "m", **values: Any) -> dict[str, Any]:
    return {"name": name, "version": "1", "state": "READY", "reason": "", "workers": 1, **values}


def test_what_needs_attention(opened: Opened) -> None:
    page = opened("digits")
    assert found(page, models=[model()]) == []
    assert found(page) == []
    gone = model(state="UNAVAILABLE", reason="\n  its file is missing\nsecond line")
    assert found(page, models=[gone]) == [("m", "cannot be served:   its file is missing")]
    for reason in ("", UNLOADED, LEASE_ENDED, IDLE, FOR_ROOM):  # that is as somebody wants it
        off = model(state="UNAVAILABLE", reason=reason)
        assert found(page, models=[off]) == []
        assert module(page, "words", "it.stateWords(it.stateOf(model))", model=off) == "Not loaded"
    assert found(page, models=[model(state="LOADING")]) == []
    assert found(page, models=[model(reason="its GPU is gone")]) == [("m", "is not ready: its GPU is gone")]
    assert found(page, models=[model(workers=0)], waiting=3) == [("m", "has no worker, and 3 requests wait")]
    assert found(page, models=[model()], failures=0.5) == [("m", "has failures: 0.50 /s")]
    assert found(page, models=[model()], workers=[]) == [
        ("", "No worker is live: requests wait in the log until one comes.")
    ]
    ((_, said),) = found(page, models=[model()], workers=[], problem="the broker does not answer")
    assert said.startswith("This gateway is not ready: the broker does not answer. ")
    silent, drains = {"worker": "a", "age_ms": 2500}, {"worker": "d", "age_ms": 5, "draining": True}
    told = ("", "Worker a is silent; its peers take over its requests.")
    assert found(page, models=[model()], workers=[silent, {"worker": "b", "age_ms": 5}]) == [told]
    assert found(page, models=[model()], workers=[drains]) == found(page, models=[model()], workers=[])
    ((_, words),) = found(page, models=[model(state="UNAVAILABLE", reason="x" * 5000)])
    assert len(words) < 250


def test_a_model_that_fails_is_named_at_the_top_and_chosen_from_there(opened: Opened, server: Process) -> None:
    page = opened("digits")
    shown = page.wait_text("#attention", "broken version 1 cannot be served")
    assert "<i>no weights</i>" in shown
    assert page.run("getComputedStyle(document.querySelector('#total-models')).color") != page.run(
        "getComputedStyle(document.querySelector('#total-workers')).color"
    )
    told = "document.querySelector('#attention-told').textContent"
    assert page.run(told).endswith("attention.")
    button = "[...document.querySelectorAll('#attention button')].find((at) => at.innerText.startsWith('broken'))"
    page.run(f"{button}.focus()")
    page.press("Enter")
    page.wait_text("#chosen-title", "broken, version 1")
    assert page.focused() == "chosen-title"
    with Client(server.url) as client:
        for _ in range(3):
            with pytest.raises(Exception, match="negative"):
                client.infer(MARKUP, {"A": np.array([[-1, 0, 0, 0]], np.float32), "<b>B</b>": np.array([[1, 2]])})
    page.wait_text("#attention", "has failures: ")
    assert page.wait(f"{told}.startsWith('2 things')")


SHOWN = ("chosen-title", "curl", "python")
ODD = [
    "模型🙂",
    "نموذج",
    "turned\u202eround",
    "tab\there",
    "a" * 200,
    "%2e%2e",
    "quo'te\"d",
    "$(id)`id`",
    "--flag",
    "a\nb",
]


def test_any_folder_name_can_be_chosen_sent_to_and_copied(browser: Browser, tmp_path: Path) -> None:
    source = write_models(tmp_path / "source", "half") / "half"
    (tmp_path / "models").mkdir()
    for name in ODD:
        (tmp_path / "models" / name).symlink_to(source)
    process = start(tmp_path, "--no-exit-on-error")
    page = browser.open(process.url)
    try:
        page.wait_text("#connection", "Live")
        served = {each["name"] for each in httpx.get(f"{process.url}/v2/fleet/models").json()["models"]}
        assert len(served) >= 8
        for place, name in enumerate(sorted(served)):
            page.run(f"[...document.querySelectorAll('#rows button')][{place}].click()")
            page.wait(f"document.querySelectorAll('#rows tr')[{place}].className === 'chosen'")
            title, *printed = [page.run(f"document.querySelector('#{each}').textContent") for each in SHOWN]
            assert "\u202e" not in title + "".join(printed)
            state = page.text("#chosen-state")
            if state != "Ready":
                continue
            page.run("document.querySelector('#sending').textContent = ''")
            page.fill("#inputs textarea", "1 2 3")
            page.click("#send")
            page.wait_text("#sending", "Answered in")
            assert "2  4  6" in page.text("#outputs"), name
        for width in (320, 1280):
            page.resize(width, 900)
            assert page.run("document.documentElement.scrollWidth") <= width
        assert page.problems() == []
    finally:
        page.close()
        process.stop()


def test_rows_of_numbers_stand_below_each_other(opened: Opened) -> None:
    page = opened("digits")
    shown = module(
        page, "answer", "it.written(output)",
        output={"datatype": "FP32", "shape": [2, 3], "values": [0, 10.25, -1, 100, 2, 33.3333333], "count": 6},
    )  # fmt: skip
    assert shown.split("\n") == ["      0    10.25       -1", "    100        2  33.3333"]
    single = {"datatype": "FP32", "shape": [1, 3], "values": [0, 10.25, -1], "count": 3}
    assert module(page, "answer", "it.written(output)", output=single) == "0  10.25  -1"


def test_nan_is_not_the_highest(opened: Opened) -> None:
    page = opened("digits")
    values = "{datatype: 'FP32', shape: [1, 4], count: 4, values: [NaN, 1, Infinity, -2]}"
    told = page.run(f"import('/page/answer.js').then((it) => it.highestOf({values}))")
    assert told == "Highest: Infinity at 2, 1 at 1, -2 at 3"


def test_a_flat_square_takes_an_image(opened: Opened) -> None:
    page = opened("digits")
    for shape, flat in (
        ([-1, 784], 28),
        ([784], 28),
        ([1, 64], 8),
        ([-1, 768], None),
        ([-1, 49], None),
        ([5, 784], None),
    ):
        layout = module(page, "image", "it.imageLayout(shape)", shape=shape)
        assert (layout and layout["flat"]) == flat, shape


def test_figures_of_a_screen_reader_do_not_flood_it(opened: Opened, server: Process) -> None:
    """Live regions change when something happens, not with each poll."""
    page = opened("shout")
    page.run(
        "window.told = []; for (const at of document.querySelectorAll('[role=status], [role=alert], [aria-live]'))"
        "new MutationObserver(() => told.push(at.id)).observe(at, {childList: true, subtree: true, characterData: true})"
    )
    asked = len(page.requested())
    with Client(server.url) as client:
        for _ in itertools.count():
            client.infer("shout", {"TEXT": [["x"]]})
            page.pump(0.1)
            if len(page.requested()) >= asked + 6:  # three polls
                break
    assert page.run("told") in ([], ["attention-told"])
