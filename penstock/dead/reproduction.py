"""Starts the child that runs a dead record, waits until it ends, and returns the result.

Invariant: whatever the record does to the child, this process and the model repository do not change.
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
"""Bytes kept from the end of the child's standard error."""
_ROOT: Final = Path(penstock.__file__).parents[1]


def reproduce_case(
    case: reproducer.Case, repositories: Sequence[Path], version: str, limit: float
) -> ReproductionResult:
    """Run the record against a model version, in a child process.

    Args:
        case: the record.
        repositories: the model's repositories.
        version: the model version.
        limit: seconds for loading and running; after that the child is killed as hung.

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
    """The exit code; None after the time limit. The child's own children are killed with it."""
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
    """The child's report, without a line that its death cut off."""
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
