"""Runs docs/first-hour.md: from a fresh clone to the first answer of an own model, each command timed. Writes the page's table.

The page is the script: its first section is run for every kind of model, then that kind's own. Blocks `python NAME` are saved as
files, lines of blocks `sh` are run in order; a comment behind a command is text that its output must have.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from loadtest.tables import table
from protocol.errors import FleetError

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs" / "first-hour.md"
BEGIN: Final = "<!-- seconds: written by `python -m loadtest first-model` -->\n"
END: Final = "<!-- end of seconds -->\n"
_SERVED: Final = "is served at"
_WITHIN: Final = 900.0
"""Seconds that a command may take."""
_STEPS: Final = (
    ("git clone", "git clone"),
    ("python3 -m venv", "make a virtual environment"),
    ("pip install", "pip install"),
    ("python ", "make the model"),
    ("penstock serve", "penstock serve, until it serves"),
    ("penstock infer", "penstock infer"),
)
"""What a command begins with, and the row that has its seconds."""


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """One line of the page; `expected` is in its output."""

    line: str
    expected: str = ""

    @property
    def step(self) -> str:
        """The row of the table."""
        return next((name for start, name in _STEPS if self.line.startswith(start)), self.line)


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """A kind of model: the files to save, and the commands in order, those of every kind first."""

    name: str
    files: Mapping[str, str]
    commands: tuple[Command, ...]


def kinds(page: str) -> list[Kind]:
    """What the page says.

    Raises:
        FleetError: a block of Python does not name its file.
    """
    sections = re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    (_, common), *others = sections
    return [Kind(name, _files(text), (*_commands(common), *_commands(text))) for name, text in others]


def _files(text: str) -> dict[str, str]:
    files = {}
    for name, code in re.findall(r"^```python *(.*?)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if not name:
            raise FleetError("a block of Python must name its file: ```python NAME")
        files[name] = code
    return files


def _commands(text: str) -> list[Command]:
    lines = "".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).splitlines()
    parts = [line.partition("   # ") for line in lines if line.strip()]
    return [Command(line.strip(), expected.strip()) for line, _, expected in parts]


class Shell:
    """A folder in which commands are run as in a terminal; servers stay until it is closed.

    Args:
        folder: where they are run; its folder `home` is the home.
        environment: variables besides PATH and HOME.
        path: where programs are looked for.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], path: str) -> None:
        self.folder = folder
        (folder / "home").mkdir(exist_ok=True)
        self._environment = {**environment, "HOME": str(folder / "home"), "PATH": path, "PYTHONUNBUFFERED": "1"}
        self._servers: list[subprocess.Popen[bytes]] = []

    def run(self, command: Command) -> float:
        """Run a command; the seconds until it has ended, or until its server serves.

        Raises:
            FleetError: it failed, or its output lacks what is expected; the message has the output.
        """
        begin = time.perf_counter()
        if command.step.startswith("penstock serve"):
            self._serve(command.line)
        else:
            done = subprocess.run(  # noqa: S603  # the page is ours
                ["/bin/bash", "-c", command.line], cwd=self.folder, env=self._environment, capture_output=True, text=True,
                timeout=_WITHIN, check=False,
            )  # fmt: skip
            if done.returncode != 0 or command.expected not in done.stdout:
                said = f"{done.stdout}{done.stderr}"[-3000:]
                raise FleetError(f"{command.line!r} ended with {done.returncode}: {said}")
        seconds = time.perf_counter() - begin
        if "venv/bin/activate" in command.line:
            self._environment["PATH"] = f"{self.folder / 'venv' / 'bin'}:{self._environment['PATH']}"
        return seconds

    def _serve(self, line: str) -> None:
        log = self.folder / "serve.log"
        with log.open("wb") as out:
            server = subprocess.Popen(  # noqa: S603  # the page is ours
                ["/bin/bash", "-c", f"exec {line}"], cwd=self.folder, env=self._environment, stdout=out,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._servers.append(server)
        until = time.monotonic() + _WITHIN
        while _SERVED not in log.read_text(errors="replace"):
            if server.poll() is not None or time.monotonic() > until:
                raise FleetError(f"{line!r} does not serve: {log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.01)

    def close(self) -> None:
        """Stop the servers."""
        for server in self._servers:
            server.terminate()
            server.wait(30)


@contextlib.contextmanager
def shell(environment: Mapping[str, str], path: str) -> Iterator[Shell]:
    """A shell in an empty folder, with ports of its own."""
    from infra.local.process import free_port

    port = str(free_port())
    ports = {
        "PENSTOCK_HTTP_PORT": port, "PENSTOCK_METRICS_PORT": str(free_port()), "PENSTOCK_GRPC_PORT": str(free_port()),
        "PENSTOCK_URL": f"http://localhost:{port}",
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="penstock-first-") as folder:
        made = Shell(Path(folder), {**environment, **ports}, path)
        try:
            yield made
        finally:
            made.close()


def run_kind(kind: Kind, opened: Shell, skip: Callable[[Command], bool] = lambda _: False) -> list[float]:
    """The seconds of each command that is not skipped, in order.

    Raises:
        FleetError: as `Shell.run`.
    """
    for name, code in kind.files.items():
        (opened.folder / name).write_text(code)
    return [opened.run(command) for command in kind.commands if not skip(command)]


# --- the page ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Timed:
    """A kind of model as it was run: its commands, and the seconds of each."""

    kind: str
    commands: list[str]
    seconds: list[float]


def seconds_table(timed: Sequence[Timed], about: Mapping[str, str]) -> str:
    """A column for each kind of model, a row for each step, and what it was measured on."""
    steps = list(dict.fromkeys(Command(line).step for each in timed for line in each.commands))
    steps.sort(key=[name for _, name in _STEPS].index)
    columns = [
        {Command(line).step: seconds for line, seconds in zip(each.commands, each.seconds, strict=True)}
        for each in timed
    ]
    rows = [[step, *[f"{column[step]:.1f}" if step in column else "-" for column in columns]] for step in steps]
    rows.append(["**seconds together**", *[f"**{sum(each.seconds):.0f}**" for each in timed]])
    rows.append(["commands", *[str(len(each.commands)) for each in timed]])
    facts = f"{about['processor']}, {about['system']}, {about['date']}."
    return table(("seconds", *[each.kind for each in timed]), rows) + "\n" + _NOTE + facts + "\n"


_NOTE: Final = """The clone is from this machine's disk, packages are from a near index, and torch's CPU wheel from the disk, so
add what your network takes. Measured on """


def with_table(page: str, text: str) -> str:
    """The page with this table."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}{text}{END}{rest.partition(END)[2]}"


def run(names: Sequence[str], page: Path, results: Path, say: Callable[[str], None]) -> None:
    """Run kinds of models (all without names), and write the page's table; results of other kinds stay.

    Raises:
        FleetError: a command failed.
    """
    from loadtest.machine import about

    document, _ = load(results)
    chosen = [kind for kind in kinds(page.read_text()) if not names or kind.name in names]
    for kind in chosen:
        with shell(_inherited(), f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin") as opened:
            say(kind.name)
            here = dataclasses.replace(kind, commands=tuple(map(_cloned_here, kind.commands)))
            seconds = run_kind(here, opened)
        lines = [command.line for command in kind.commands]
        for line, took in zip(lines, seconds, strict=True):
            say(f"{took:7.1f} s  {line}")
        document[kind.name] = Timed(kind.name, lines, [round(took, 2) for took in seconds])
    facts = about(None, None)
    order = [kind.name for kind in kinds(page.read_text())]
    timed = [document[name] for name in order if name in document]
    saved = {"about": facts, "kinds": [dataclasses.asdict(each) for each in timed]}
    results.write_text(json.dumps(saved, indent=1) + "\n")
    page.write_text(with_table(page.read_text(), seconds_table(timed, facts)))
    say(f"wrote {page}")


def load(results: Path) -> tuple[dict[str, Timed], dict[str, str]]:
    """Kinds by name, and what they were measured on, from the JSON of the page; nothing without it."""
    if not results.exists():
        return {}, {}
    document: dict[str, Any] = json.loads(results.read_text())
    return {each["kind"]: Timed(**each) for each in document["kinds"]}, document["about"]


def _cloned_here(command: Command) -> Command:
    return dataclasses.replace(command, line=command.line.replace("REPOSITORY", shlex.quote(str(ROOT))))


def _inherited() -> dict[str, str]:
    """The variables that say where packages come from, and nothing else."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper().startswith(("PIP_", "SSL_", "HTTP", "NO_PROXY"))
    }
