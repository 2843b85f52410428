"""Runs what a page prints, as it is printed: in a folder of its own, on free ports, with this Python's commands."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

from infra.local.process import free_port
from tests.integration.fleet import wait_for

ROOT = Path(__file__).parents[1]
_OURS = f'python() {{ {shlex.quote(sys.executable)} "$@"; }}\npenstock() {{ python -m penstock "$@"; }}\n'
"""The page's `python` and `penstock` are those that run the tests, whatever is on the path."""
_PORTS = {"HTTP": "8000", "GRPC": "8001", "METRICS": "8002"}


class Place:
    """Where a page's commands run.

    Args:
        folder: their working directory and home.

    Attributes:
        more: further variables of the environment.
        ended: the exit code of the server that ended last.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.more: dict[str, str] = {}
        self.ended: int | None = None
        self.ports = {port: free_port() for port in _PORTS.values()}

    @property
    def url(self) -> str:
        """The server's, once one is started."""
        return f"http://127.0.0.1:{self.ports['8000']}"

    @property
    def log(self) -> str:
        """All that the servers have written."""
        return (self.folder / "servers.log").read_text(errors="replace")

    @property
    def environment(self) -> dict[str, str]:
        """With the ports as our commands' flags."""
        ports = {f"PENSTOCK_{name}_PORT": str(self.ports[port]) for name, port in _PORTS.items()}
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(self.folder), **ports, **self.more}

    def here(self, text: str) -> str:
        """The text with this place's ports."""
        for written, port in self.ports.items():
            for before in ("localhost:", "127.0.0.1:", "port=", "--port ", "PORT = "):
                text = text.replace(f"{before}{written}", f"{before}{port}")
        return text

    def write(self, name: str, text: str) -> Path:
        """A file of the page, with this place's ports."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.here(text))
        return path

    def shell(self, lines: str, within: float = 60.0, **environment: str) -> str:
        """What the lines print; fails with their errors if one fails."""
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", _OURS + self.here(lines)], capture_output=True, text=True,
            cwd=self.folder, check=False, env=self.environment | environment, timeout=within,
        )  # fmt: skip
        assert done.returncode == 0, f"{lines}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextlib.contextmanager
    def serving(
        self, line: str, python: Path | str = sys.executable, ready: str = "/v2/health/ready"
    ) -> Iterator[None]:
        """A server, from the page's line until the block ends.

        Args:
            line: begins with `penstock` or `python`.
            python: runs it.
            ready: the path, or URL, that answers 200 once it serves.
        """
        program, rest = self.here(line).split(maxsplit=1)
        command = f"exec {shlex.quote(str(python))} {'-m penstock ' if program == 'penstock' else ''}{rest}"
        with (self.folder / "servers.log").open("ab") as log:
            process = subprocess.Popen(
                ["bash", "-c", command], stdout=log, stderr=log, cwd=self.folder, env=self.environment,
                start_new_session=True,
            )  # fmt: skip
        try:
            wait_for(f"{line} to serve", lambda: self._answers(process, ready), pause=0.1)
            yield
        finally:
            self.ended = _end(process)

    def _answers(self, process: subprocess.Popen[bytes], path: str) -> bool:
        assert process.poll() is None, self.log
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(path if "://" in path else self.url + path, timeout=2).status_code == 200
        return False


def _end(process: subprocess.Popen[bytes]) -> int:
    """SIGTERM, and SIGKILL to the whole group for what is left; the exit code."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait(20)
