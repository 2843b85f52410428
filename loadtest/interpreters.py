"""The Python interpreters that run our servers: this one, and others that have Penstock or can borrow this one's packages."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from protocol.errors import InvalidArgument

_ROOT: Final = Path(__file__).parent.parent
_ASK: Final = """\
import importlib.util, json, platform, sys, time
def spin():
    begin, total = time.perf_counter(), 0
    for number in range(100_000):
        total += number
    return (time.perf_counter() - begin) * 1e4
print(json.dumps({
    "version": platform.python_version(),
    "implementation": [platform.python_implementation(), *sys.version_info[:2]],
    "build": platform.python_compiler(),
    "spin_ns": min(spin() for _ in range(15)),
    "penstock": importlib.util.find_spec("penstock") is not None,
}))
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Interpreter:
    """One interpreter.

    Attributes:
        path: its executable.
        environment: variables that it needs to import Penstock.
        version: "3.11.7"; "" if it was not asked.
        build: its compiler.
        spin_ns: the fixed loop of `machine.spin_ns` in it: builds of the same version differ by a third.
    """

    path: str = sys.executable
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    version: str = ""
    build: str = ""
    spin_ns: float = 0.0


THIS_ONE: Final = Interpreter()


def find(paths: Iterable[str]) -> tuple[Interpreter, ...]:
    """The interpreters at these paths; one of the version of another gets its path behind the version.

    Raises:
        InvalidArgument: one does not run, or has no Penstock and cannot use this one's packages, being of another version.
    """
    found: list[Interpreter] = []
    for path in paths:
        interpreter = _ask(path)
        if interpreter.version in {other.version for other in found}:
            interpreter = dataclasses.replace(interpreter, version=f"{interpreter.version} ({path})")
        found.append(interpreter)
    return tuple(found)


def _ask(path: str) -> Interpreter:
    try:
        # In the root folder: a checkout in the working folder is no installation.
        asked = subprocess.run([path, "-c", _ASK], capture_output=True, text=True, check=True, cwd="/")  # noqa: S603
        facts = json.loads(asked.stdout)
    except (OSError, subprocess.CalledProcessError, json.JSONDecodeError) as exc:
        raise InvalidArgument(f"{path} is no Python interpreter: {exc}") from exc
    environment = {}
    if not facts["penstock"]:
        if facts["implementation"] != ["CPython", *sys.version_info[:2]]:
            raise InvalidArgument(
                f"{path} has no Penstock, and is of another version than this Python, whose packages it needs"
            )
        environment = {"PYTHONPATH": os.pathsep.join([str(_ROOT), *_package_folders()])}
    return Interpreter(path, environment, facts["version"], facts["build"], facts["spin_ns"])


def _package_folders() -> list[str]:
    """Where this interpreter finds what is installed."""
    return [path for path in sys.path if Path(path).name == "site-packages"]


def here() -> tuple[str, ...]:
    """This interpreter, and the system's python3 if it is another build of the same version."""
    system = Path("/usr/bin/python3")
    paths = [sys.executable]
    if system.exists() and system.resolve() != Path(sys.executable).resolve():
        asked = subprocess.run(  # noqa: S603  # no input of others
            [str(system), "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=False
        )
        if asked.stdout.split() == [str(part) for part in sys.version_info[:2]]:
            paths.append(str(system))
    return tuple(paths)
