"""docs/clients.md, run as written: each program, in its language, against the page's server."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from infra.local.dashboards import BROWSERS
from tests.pages import ROOT, Place
from tests.producers.examples import examples
from tests.producers.test_examples import program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PAGE = ROOT / "docs" / "clients.md"
BLOCKS = {name: block.text for name, block in examples(PAGE).items()}
SHOWN = re.findall(
    r"^```sh ([\w-]+)\n(?:(?!```).)*^```\n\n```\n(.*?)\n```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("clients"))
    made.shell(BLOCKS["new"])
    with made.serving(BLOCKS["serve"].strip()):
        yield made


def test_curl_prints_what_the_page_shows(place: Place) -> None:
    assert [name for name, _ in SHOWN] == ["curl", "curl-generate"]
    for name, shown in SHOWN:
        assert place.shell(BLOCKS[name]) == shown
    assert '"data":[11.0,22.0,33.0,44.0]' in place.shell(BLOCKS["curl-async"])


def test_the_programs_are_short() -> None:
    for name in ("node", "node-binary", "browser", "java", "go"):
        assert len(BLOCKS[name].splitlines()) <= 40, name


@pytest.mark.parametrize(
    ("name", "said"),
    [("node", "SUM [ 11, 22, 33, 44 ]"), ("node-binary", "SUM [ 1, 4 ] Float32Array(4) [ 11, 22, 33, 44 ]")],
)
def test_node(place: Place, name: str, said: str) -> None:
    node = program("node")
    version = re.search(
        r"v(\d+)", subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    )
    if version is None or int(version[1]) < 18:
        pytest.skip("Node is older than 18, which has no fetch: the example in docs/clients.md is not run")
    place.write(f"{name}.mjs", BLOCKS[name])

    assert place.shell(f"node {name}.mjs").strip() == said


def test_java(place: Place) -> None:
    program("javac")
    place.write("Infer.java", BLOCKS["java"])

    assert place.shell(BLOCKS["java-run"]).strip() == "SUM [11.0, 22.0, 33.0, 44.0]"


def test_go(place: Place) -> None:
    go = program("go", "/usr/local/go/bin/go")
    place.write("main.go", BLOCKS["go"])
    environment = {"PATH": os.pathsep.join([str(Path(go).parent), os.environ["PATH"]]), "HOME": os.environ["HOME"]}
    said = place.shell(BLOCKS["go-run"], within=220, GOFLAGS="-buildvcs=false", **environment)  # HOME has Go's cache

    assert said.strip() == "SUM [11 22 33 44]"


def test_a_browser(place: Place) -> None:
    place.write("page.html", BLOCKS["browser"])
    with site_of(place) as port:
        shows(place, f"http://127.0.0.1:{port}/page.html")


def test_a_browser_from_another_origin(tmp_path: Path) -> None:
    other = Place(tmp_path)
    other.shell(BLOCKS["new"])
    page = BLOCKS["browser"].replace('fetch("/v2/', f'fetch("{other.url}/v2/')
    assert page != BLOCKS["browser"]
    other.write("page.html", page)
    with site_of(other) as port, other.serving(BLOCKS["cors"].strip().replace("localhost:3000", f"localhost:{port}")):
        shows(other, f"http://localhost:{port}/page.html")


@contextlib.contextmanager
def site_of(place: Place) -> Iterator[int]:
    """The port of a web server with the place's files."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), proxy_of(place)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def shows(place: Place, url: str) -> None:
    """A browser shows the answer at this address."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("chromium is not installed: the page in docs/clients.md is not opened")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [browser, "--headless", "--disable-gpu", *root, f"--user-data-dir={place.folder / 'profile'}",
         "--virtual-time-budget=10000", "--dump-dom", url],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert '<pre id="answer">11 22 33 44</pre>' in done.stdout, done.stderr


def proxy_of(place: Place) -> type[http.server.BaseHTTPRequestHandler]:
    """One host for the page and the gateway, as a proxy makes them."""

    class Proxy(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(place.folder))  # type: ignore[arg-type]

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            answer = httpx.post(place.url + self.path, content=body, headers={"origin": self.headers["origin"]})
            self.send_response(answer.status_code)
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Proxy


def test_what_the_page_says_of_all_clients(place: Place) -> None:
    foreign = httpx.post(f"{place.url}/v2/models/add/infer", json={}, headers={"origin": "https://example.com"})
    unknown = httpx.post(f"{place.url}/v2/models/nothing/infer", json={"inputs": []})

    assert foreign.status_code == 403
    assert "--allowed-hosts" in foreign.text
    assert "access-control-allow-origin" not in httpx.get(f"{place.url}/v2/health/ready").headers
    assert unknown.status_code == 404
    assert "penstock-error" in unknown.headers
