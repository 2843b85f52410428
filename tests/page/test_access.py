"""Who can use the page: with a key, with a keyboard alone, with a screen reader, with poor eyes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator

import pytest

from tests.integration.fleet import Process
from tests.page.browser import Browser, Page
from tests.page.conftest import KEY, ROOT, start

Opened = Callable[[str], Page]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
STYLE = (ROOT / "gateway" / "page" / "static" / "style.css").read_text()
CONTROLS = {"button", "link", "textbox", "searchbox", "combobox", "checkbox", "image", "img", "region", "table"}
"""Roles that mean nothing to a screen reader without a name."""


@pytest.fixture(scope="module")
def keyed(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = start(tmp_path_factory.mktemp("keyed"), "--api-key", KEY, models=("half",))
    try:
        yield process
    finally:
        process.stop()


def test_it_asks_for_the_key_keeps_it_in_the_tab_and_shows_it_nowhere(browser: Browser, keyed: Process) -> None:
    page = browser.open(keyed.url)
    page.wait_text("#key-form", "API key")
    assert page.focused() == "key"
    assert page.run("document.querySelector('#fleet').offsetParent") is None
    page.type("wrong")
    page.press("Enter")
    page.wait_text("#key-problem", "does not take this key")
    page.type(KEY)
    page.press("Enter")
    page.wait_text("#rows", "half")

    assert "$PENSTOCK_API_KEY" in page.text("#curl")
    assert 'os.environ["PENSTOCK_API_KEY"]' in page.text("#python")
    page.click("#send")
    page.wait_text("#sending", "Answered in")
    assert KEY not in page.run("document.documentElement.outerHTML")
    assert KEY not in str(page.requested())
    assert page.run("[localStorage.length, document.cookie]") == [0, ""]

    page.click(
        "#openapi"
    )  # a link cannot carry the key: the page fetches the document, and shows it in a tab of its own
    described = browser.other_tab(f"blob:{keyed.url}/")
    described.wait_text("body", '"openapi":"3.1.0"')
    described.close()

    page.send("Page.reload")
    page.wait_text("#rows", "half")
    page.click("#forget")
    page.wait_text("#key-form", "API key")
    assert page.run("sessionStorage.length") == 0
    assert page.problems() == []
    page.close()


def test_without_the_key_only_the_files_of_the_page_are_served(keyed: Process) -> None:
    import httpx

    browser = {"accept": "text/html,application/xhtml+xml"}
    with httpx.Client(base_url=keyed.url, headers=browser) as client:
        assert client.get("/").status_code == 200
        assert client.get("/page/main.js").status_code == 200
        assert {
            client.get(path).status_code for path in ("/v2/fleet/models", "/openapi.json", "/metrics", "/page/no")
        } == {401}
        assert client.post("/").status_code == 401


def test_a_keyboard_is_enough(opened: Opened) -> None:
    page = opened("digits")
    page.press("Tab")
    assert page.focused() == "A Skip to the models"
    page.press("Enter")
    assert page.focused() == "models"
    way = []
    while page.focused() != "BUTTON shout":
        page.press("Tab")
        way.append(page.focused())
        assert len(way) < 30, way
    assert way[0] == "filter"
    page.press("Enter")
    page.wait_text("#chosen-title", "shout")
    assert page.focused() == "chosen-title"
    for expected in ("SELECT", "INPUT", "TEXTAREA"):
        page.press("Tab")
        assert page.run("document.activeElement.tagName") == expected
    page.run("document.activeElement.select()")
    page.type("quiet")
    page.press("Tab")
    assert page.focused() == "send"
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("Enter")
    page.wait_text("#outputs", "<b>quiet</b>")
    assert page.focused() == "send"


def test_a_screen_reader_is_told_what_everything_is(opened: Opened) -> None:
    page = opened("picture")
    page.choose("#inputs select", "file")
    page.click("#send")
    page.wait_text("#inputs .problem", "choose an image file")
    nodes = page.tree()
    named = [(node["role"]["value"], node.get("name", {}).get("value", "").strip()) for node in nodes]

    assert [role for role, name in named if role in CONTROLS and not name and role != "table"] == []
    for role, name in (
        ("heading", "Models"), ("searchbox", "Filter"), ("button", "digits"), ("combobox", "Values from"), ("combobox", "Colours"),
        ("textbox", "Shape"), ("button", "Send"), ("columnheader", "State"), ("rowheader", "digits version 1"), ("main", ""),
        ("navigation", "More about this server"), ("group", "IMAGE UINT8, any × any × any × 3"), ("status", ""), ("alert", ""),
    ):  # fmt: skip
        assert (role, name) in named, (role, name)
    levels = page.run(
        "[...document.querySelectorAll('h1,h2,h3,h4')].filter((at) => at.offsetParent).map((at) => Number(at.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels
    assert page.run("document.documentElement.lang") == "en"


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_its_ground(scheme: int) -> None:
    """WCAG 2.2 AA: 4.5 to 1."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", blocks[scheme]))
    for text in ("text", "muted", "accent", "ok", "warn", "bad"):
        for ground in ("ground", "panel", "soft"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["on-accent"], colours["accent"]) >= 4.5
    for shape in (
        "bar",
        "muted",
        "accent",
        "ok",
        "warn",
        "bad",
    ):  # bars, borders of fields, the focus, dots of states: 3 to 1
        assert contrast(colours[shape], colours["panel"]) >= 3, shape


@pytest.mark.parametrize(("width", "height"), [(320, 640), (390, 844), (768, 1024), (1280, 900)])
def test_nothing_is_cut_off_at_the_side(opened: Opened, width: int, height: int) -> None:
    page = opened("digits")
    page.resize(width, height, dark=width < 400)
    page.click("#send")
    page.wait_text("#sending", "Answered in")
    assert page.run("document.documentElement.scrollWidth") <= width


def test_who_wants_no_motion_gets_none(opened: Opened) -> None:
    page = opened("digits")
    page.resize(800, 600)  # with prefers-reduced-motion
    page.click("#send")
    page.wait_text("#sending", "Answered in")
    assert page.run("getComputedStyle(document.querySelector('.fill')).transitionDuration") == "0s"
