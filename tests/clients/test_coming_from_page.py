"""docs/coming-from.md, run as written: LitServe's, Mosec's and our server answer the same texts with the same numbers."""

from __future__ import annotations

import concurrent.futures
import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.settings import GatewaySettings
from tests.clients.test_clients import PYTHON
from tests.integration.fleet import wait_for
from tests.pages import ROOT, Place
from tests.producers.examples import examples
from workers.repository.completion import DEFAULT_MAX_BATCH_SIZE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.xdist_group("clients")]

PAGE = ROOT / "docs" / "coming-from.md"
BLOCKS = {name: block.text for name, block in examples(PAGE).items()}
TEXTS = ["great model but slow", "awful", "love love", "", "nothing to say", "good", "bad bad", "GREAT"]
EMPTY = TEXTS.index("")
SERVERS = {
    "litserve": ("lit_server.py", "/predict", "/health"),
    "mosec": ("mosec_server.py", "/inference", "/metrics"),
    "penstock": ("praise.py", "/v2/models/praise/generate", "/v2/health/ready"),
}
WAIT = {
    "batch_timeout=0.005": "batch_timeout=1",
    "max_wait_time=5": "max_wait_time=1000",
    "workers_per_device=2": "workers_per_device=1",
    "num=2": "num=1",
}
"""So long that eight calls at once are one batch."""


@contextlib.contextmanager
def server(name: str, folder: Path, *, patient: bool = False) -> Iterator[Place]:
    """The page's server of that name, and its place; with a long delay if it is patient."""
    assert PYTHON.exists(), f"{PYTHON} is not there: make .venv-clients/.ready"
    place = Place(folder)
    file, _, ready = SERVERS[name]
    text = BLOCKS[name]
    for written, long in WAIT.items() if patient else ():
        text = text.replace(written, long)
    place.write("classifier.py", BLOCKS["classifier"])
    place.write(file, text)
    python = {} if name == "penstock" else {"python": PYTHON}
    with place.serving(BLOCKS[f"{name}-run"], ready=ready, **python):
        yield place


def scores(place: Place, name: str, texts: list[str]) -> list[float | None]:
    """The answers to texts that are sent at once; None for an error."""
    path = SERVERS[name][1]

    def call(text: str) -> float | None:
        answer = httpx.post(place.url + path, json={"text": text}, timeout=30)
        return answer.json()["positive"] if answer.status_code == 200 else None

    with concurrent.futures.ThreadPoolExecutor(len(texts)) as pool:
        return list(pool.map(call, texts))


def answered(place: Place, name: str) -> None:
    """Wait until a worker answers: LitServe and Mosec listen before one is there."""
    wait_for(f"an answer of {name}", lambda: scores(place, name, ["good"])[0], pause=0.2)


def test_all_three_answer_the_pages_call_alike(tmp_path: Path) -> None:
    found = {}
    for name in SERVERS:
        folder = tmp_path / name
        folder.mkdir()
        with server(name, folder) as place:
            answered(place, name)
            (number,) = re.findall(r'"positive": ?([\d.]+)', place.shell(BLOCKS[f"{name}-call"]))
            found[name] = [float(number), *scores(place, name, [text for text in TEXTS if text])]
            if name == "penstock":
                assert '"data":[0.8175745,0.119202934]' in place.shell(BLOCKS["penstock-infer"])

    assert found["litserve"] == found["mosec"] == pytest.approx(found["penstock"], abs=1e-6)
    assert found["penstock"][0] == pytest.approx(0.8175745)


@pytest.mark.parametrize("name", ["litserve", "mosec"])
def test_there_one_bad_request_fails_its_batch(tmp_path: Path, name: str) -> None:
    with server(name, tmp_path, patient=True) as place:
        answered(place, name)
        failed = [scores(place, name, TEXTS).count(None) for _ in range(3)]

    assert max(failed) == len(TEXTS), f"{failed} of eight failed: no batch had all"
    assert min(failed) > 1


def test_here_it_fails_alone(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write("models/praise/1/classifier.py", BLOCKS["classifier"])
    place.write("models/praise/1/model.py", BLOCKS["penstock"])
    place.write("models/praise/config.pbtxt", BLOCKS["config"].replace("microseconds: 5000", "microseconds: 1000000"))
    with place.serving(BLOCKS["folder-run"]):
        got = scores(place, "penstock", TEXTS)
        stated = httpx.get(f"{place.url}/v2/models/praise/config").json()

    assert [index for index, score in enumerate(got) if score is None] == [EMPTY]
    assert stated["instance_group"][0]["count"] == 2
    assert stated["max_batch_size"] == 32
    assert "parts" in place.log, "the eight were no batch"


def test_the_names_that_the_tables_map_are_the_libraries(tmp_path: Path) -> None:
    """Each argument, method and flag of the left columns is one of the installed versions."""
    listed = re.findall(r"^\| (.+?) \| .+? \|$", PAGE.read_text(), re.MULTILINE)
    code = tmp_path / "names.py"
    code.write_text(_NAMES)
    done = subprocess.run([PYTHON, code], capture_output=True, text=True, check=True, cwd=tmp_path)
    known = set(done.stdout.split())
    words = {
        word
        for cell in listed
        for name in re.findall(r"`([^`]+)`", cell)
        for word in re.findall(r"[A-Za-z_-]{4,}", name)
    }
    ours = {"GET", "info", "API", "HTTPException", "raise", "True"}

    assert words - known - ours == set()
    for library in ("litserve", "mosec"):
        (version,) = re.findall(rf"{library}\S* (\S+)", done.stderr)
        assert f"({version})" in PAGE.read_text()


def test_our_defaults_in_the_tables_are_the_codes() -> None:
    text, gateway = PAGE.read_text(), GatewaySettings()

    assert text.count(f"`--default-timeout` ({gateway.default_timeout:.0f} s") == 2
    assert f"`--max-queued-calls` ({gateway.max_queued_calls:,}, then 429)" in text
    assert gateway.max_body_bytes == 16 * 2**20
    assert f"`max_batch_size` | the same, in the class or in config.pbtxt; {DEFAULT_MAX_BATCH_SIZE} if neither" in text


_NAMES = """
import importlib.metadata, inspect, pathlib, re, sys
import litserve, mosec
for library in (litserve, mosec):
    folder = pathlib.Path(library.__file__).parent
    text = "".join(path.read_text() for path in folder.rglob("*.py"))
    print(*set(re.findall(r"[A-Za-z_-]{4,}", text)))
    print(library.__name__, importlib.metadata.version(library.__name__), file=sys.stderr)
"""
