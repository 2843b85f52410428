"""The output of `make demo` as a newcomer sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_demo_shows_its_pictures_and_figures_before_it_says_that_it_stopped(encoding: str) -> None:
    code = "import sys; sys.path.insert(0, 'examples/digits'); import demo; demo.ROUNDS = 1; demo.main()"

    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        timeout=100,
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)},
        check=False,
    )

    text = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b""), text
    lines = [line for line in text.splitlines() if line]
    order = [
        "one-process fleet ready",
        "read 0, is 0",
        "accuracy ",
        "speed ",
        "latency ",
        "batches ",
        "stopped cleanly",
    ]
    found = [next(number for number, line in enumerate(lines) if line.strip().startswith(start)) for start in order]
    assert found == sorted(found)
    assert lines[-1] == "stopped cleanly"
