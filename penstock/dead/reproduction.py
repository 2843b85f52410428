"""Starts the child that runs a dead record, waits for its end, and judges it.

Invariant: whatever the record does to the child, this process and the model repository are as before.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import orjson

import penstock
from penstock.dead import reproducer
from penstock.dead.reproduction_result import ReproductionResult, result_of

TRACE: Final = 4096
"""Bytes of the child's last words that are kept."""
_ROOT: Final = Path(penstock.__file__).parents[1]


def reproduce_case(
    case: reproducer.Case, repositories: Sequence[Path], version: str, limit: float
) -> ReproductionResult:
    """Run the record against a model version, in a child process.

    Args:
        case: the record.
        repositories: where the model is.
        version: of the model.
        limit: seconds for loading and running; then the child counts as hung and is killed.

    Raises:
        ModelUnusable: the model could not be loaded, or the child ended before the record was run.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-dead-") as scratch:
        place = Path(scratch)
        reproducer.write_case(place / "case", case)
        report, words = place / "report", place / "stderr"
        command = [
            sys.executable, "-P", "-X", "faulthandler", "-m", "penstock.dead.reproduce_child",
            str(place / "case"), str(report), version,
            *[str(path.absolute()) for path in repositories],
        ]  # fmt: skip
        with words.open("wb") as output:
            exit_code = _run(command, output.fileno(), place, limit)
        return result_of(_lines(report), exit_code, _tail(words), limit)


def _run(command: list[str], output: int, place: Path, limit: float) -> int | None:
    """The exit code; None where the time was over. What the child started ends with it."""
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
    child = subprocess.Popen(  # noqa: S603  # our own interpreter and module
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd=place,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
    )
    try:
        return child.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _lines(report: Path) -> list[dict[str, Any]]:
    """What the child wrote; a line that it died in the middle of does not count."""
    lines = []
    with contextlib.suppress(OSError, orjson.JSONDecodeError):
        for line in report.read_bytes().splitlines():
            lines.append(orjson.loads(line))  # noqa: PERF401  # those before a broken one are kept
    return lines


def _tail(words: Path) -> str:
    with words.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - TRACE))
        return file.read().decode(errors="replace").strip()
