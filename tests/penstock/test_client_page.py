"""docs/client.md, run as written: every block of Python, against a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.client import Client
from tests.integration.fleet import Process, fleet, wait_for

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "client.md").read_text(), re.MULTILINE | re.DOTALL)
HTTP, KAFKA = BLOCKS[:-1], BLOCKS[-1]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("serve") / "log"
    models = str(ROOT / "examples" / "digits" / "models")
    process = Process("serve", log, "serve", "--model-repository", models)
    try:
        with Client(process.url) as client:
            wait_for("the server", client.ready)
        yield process.url.removeprefix("http://")
    finally:
        process.stop()


def run(code: str, **environment: str) -> str:
    """The output of a block."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=90,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "True ['digits']"), (1, "input"), (2, "1000 done, 0 failed"), (3, "[[")],
    ids=["one", "error", "many", "submit"],
)
def test_the_blocks_over_http(url: str, number: int, said: str) -> None:
    assert len(HTTP) == 4
    assert "localhost:8000" in HTTP[number]

    assert said in run(HTTP[number].replace("localhost:8000", url))


@pytest.mark.servers
def test_the_block_over_kafka(kafka_bootstrap: str, redis_url: str, prefix: str, tmp_path: Path) -> None:
    with fleet(kafka_bootstrap, redis_url, prefix, tmp_path, ROOT / "examples" / "digits" / "models") as made:
        made.add_worker()
        said = run(KAFKA, KAFKA=kafka_bootstrap, PREFIX=prefix)

    assert "20 records delivered" in said
    assert len(re.findall(r"^job-\d+ \(50, 1\)$", said, re.MULTILINE)) == 20
