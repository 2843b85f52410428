"""docs/dead-letters.md, run as written: every command, in order."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.dead_letter import REASONS, UNKNOWN
from protocol.naming import Names
from protocol.ports import Bus
from tests.integration.repositories import write_model
from tests.penstock.dead_letters import evidence, publish_dead_letter, request
from tests.penstock.test_dead_command import on_the_bus

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "dead-letters.md").read_text()
CRASHER = """
    import ctypes

    class Model:
        inputs = {"X": ("FP32", [-1])}
        outputs = {"X": ("FP32", [-1])}
        max_batch_size = 4

        def predict(self, X):
            ctypes.string_at(0)
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_every_command_of_the_page_does_what_the_page_says(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "digits", CRASHER)
    names = Names()

    async def work(bus: Bus) -> None:
        topic = names.infer_topic("digits", "1")
        await bus.ensure_topic(topic, 1)
        value, headers = request("5f0c9a7e")
        await publish_dead_letter(bus, names, value, headers, evidence(topic=topic, signal="SIGSEGV"), model="digits")

    on_the_bus(tmp_path / "data", work)
    export, *commands = re.findall(r"```sh\n(.*?)\n```", PAGE, re.DOTALL)
    listed, as_json, shown, again, exported, script, planned, sent = (
        run(f"{export}; {line}", tmp_path) for line in commands
    )

    assert "1 dead letter(s): 1 poison" in listed
    assert json.loads(as_json)["counts"] == {"poison": 1}
    assert "X FP32[1, 2] = 1.0, 2.0" in shown
    assert all("crashed: the process was ended by SIGSEGV" in text for text in (again, exported, script))
    assert "would send  5f0c9a7e" in planned
    assert "answer: GET /v2/requests/5f0c9a7e~r1, or Redis penstock:result:5f0c9a7e~r1" in sent


def test_the_page_explains_every_reason() -> None:
    assert re.findall(r"^\| `([a-z]+)` \|", PAGE, re.MULTILINE) == [*REASONS, UNKNOWN]


def run(line: str, folder: Path) -> str:
    """The output of one of the page's lines, run with this Python's commands."""
    python = shlex.quote(sys.executable)
    line = re.sub(r"; python\b", f"; {python}", line)
    line = re.sub(r"; penstock\b", f"; {python} -m penstock", line)
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(folder), "COLUMNS": "200"}
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout
