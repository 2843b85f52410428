"""The example with a real data set, by the commands that the README has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from penstock import Client
from tests.integration.fleet import Process, wait_for

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "docstrings"


def run(folder: Path, *words: str, url: str = "") -> str:
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PENSTOCK_URL": url, "PYTHONPATH": str(ROOT), "PENSTOCK_STATE_DIR": str(folder / "state")},
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_python_documentation_becomes_vectors_and_is_found_again(tmp_path: Path) -> None:
    """A part of the library, so that it takes seconds; the README's commands otherwise."""
    shorten = f"import sys; sys.path.insert(0, {str(EXAMPLE)!r}); import collect, email; from pathlib import Path; "
    run(tmp_path, "-c", shorten + "collect.LIBRARY = Path(email.__file__).parent; sys.argv[1:] = ['paragraphs.parquet']; "
        "collect.paragraphs.__defaults__ = (collect.LIBRARY,); collect.main()")  # fmt: skip
    server = Process("serve", tmp_path / "log", "serve", "--model-repository", str(EXAMPLE / "models"))
    try:
        with Client(server.url) as client:
            wait_for("the server", client.ready)
        submit = ["-m", "penstock", "batch", "submit", "docstrings", "paragraphs.parquet", "-o", "vectors.parquet"]
        progress = run(tmp_path, *submit, "--json", url=server.url)
        (tmp_path / "progress.jsonl").write_text(progress)
        last = json.loads(progress.splitlines()[-1])
        assert (last["state"], last["failed"], last["answered"]) == ("done", 0, last["read"])
        question = "parse a message from a file"
        found = run(
            tmp_path, str(EXAMPLE / "nearest.py"), "paragraphs.parquet", "vectors.parquet", question, url=server.url
        )
        assert len(found.splitlines()) == 5
        assert "essage" in found
        run(tmp_path, str(EXAMPLE / "plot.py"), "progress.jsonl", "throughput.png")
        assert (tmp_path / "throughput.png").read_bytes().startswith(b"\x89PNG")
    finally:
        server.stop()
