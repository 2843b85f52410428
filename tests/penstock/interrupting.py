"""Processes that are interrupted: what they print, how they end, and what they leave behind.

`python -m tests.penstock.test_interrupt_moments` writes golden/interrupted.txt, which a person then reads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import psutil

ROOT: Final = Path(__file__).parents[2]
GOLDEN: Final = Path(__file__).parent / "golden" / "interrupted.txt"
SECONDS: Final = 2.0
SLACK: Final = 1.0
"""Additional seconds, because the test machine may be busy."""
SHARED_MEMORY: Final = Path("/dev/shm")
_TOKEN: Final = "INTERRUPTED_BY_A_TEST"
_UNSTEADY: Final = (
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z "), ""),
    (re.compile(r"\b(gateway|seconds|pid|worker|grpc_port|port|error_id|waiting)=\S+"), r"\1=…"),
    (re.compile(r"(127\.0\.0\.1|localhost):\d+"), r"\1:PORT"),
    (re.compile(r"after \d+ s"), "after … s"),
    (re.compile(r"/\S*/(?=[\w.]+)"), "…/"),
    (re.compile(r" {2,}"), "  "),
    (re.compile(r"job \S+ "), "job … "),
    (re.compile(r"in \d+\.\d s"), "in … s"),
)


@dataclasses.dataclass
class Ended:
    """How a process ended.

    Attributes:
        code: as a shell has it.
        seconds: since the first signal.
        said: what it printed since then.
        left: processes that it left behind.
        shared: files that it left in /dev/shm.
    """

    code: int
    seconds: float
    said: str
    left: list[str]
    shared: set[str]

    def steady(self) -> str:
        """The end without what differs between runs: times, ports and process ids."""
        lines = [line.strip() for line in self.said.splitlines() if line.strip()]
        for pattern, replacement in _UNSTEADY:
            lines = [pattern.sub(replacement, line) for line in lines]
        return "\n".join([f"exit code {self.code}", *lines])


class Running:
    """A `penstock` process in a session of its own, like a job of a shell.

    Args:
        arguments: after `penstock`.
        options: of Python.
    """

    def __init__(self, arguments: Sequence[str], options: Sequence[str] = ()) -> None:
        self._token = secrets.token_hex(8)
        self._shared = shared_memory()
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, *options, "-m", "penstock", *arguments],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", _TOKEN: self._token},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._lines.append(line.decode(errors="replace"))
                self._changed.notify_all()

    def line_with(self, text: str, seconds: float = 60.0) -> str:
        """Wait for a line that has the text."""
        with self._changed:
            found: Callable[[], list[str]] = lambda: [line for line in self._lines if text in line]  # noqa: E731
            assert self._changed.wait_for(found, seconds), f"no {text!r} in\n{''.join(self._lines)}"
            return found()[0]

    def signal(self, *numbers: signal.Signals, between: Callable[[], object] = lambda: None) -> Ended:
        """Send the signals to its process group, as a terminal does, and wait for its end.

        Args:
            numbers: of the signals.
            between: called after each but the last.
        """
        before, begun = len(self._lines), time.monotonic()
        for index, number in enumerate(numbers):
            if index:
                between()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
        code = self._process.wait(30)
        took = time.monotonic() - begun
        self._reader.join(5)
        left = [" ".join(process.cmdline()) for process in self._family()]
        said = "".join(self._lines[before:])
        return Ended(code if code >= 0 else 128 - code, took, said, left, shared_memory() - self._shared)

    def _family(self) -> Iterator[psutil.Process]:
        """It and what it started, in whatever session; not those whose end only their parent has not seen yet."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(_TOKEN) == self._token and process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    def close(self) -> None:
        """Kill what is left."""
        for process in self._family():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._process.wait()
        self._reader.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()


def shared_memory() -> set[str]:
    """The names in /dev/shm."""
    return {file.name for file in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()


def golden() -> dict[str, str]:
    """The sections of the golden file, by title."""
    parts = re.split(r"^== (.*) ==\n", GOLDEN.read_text(), flags=re.MULTILINE)[1:]
    return {title: text.strip() for title, text in zip(parts[::2], parts[1::2], strict=True)}


def write(sections: dict[str, str]) -> None:
    """Write the golden file."""
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text("\n\n".join(f"== {title} ==\n{text}" for title, text in sections.items()) + "\n")
