"""How a process of ours is started so that it runs this code, and no file of the user's that is called the same."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

HOME: Final = str(Path(__file__).parents[2])
"""The folder that holds our packages."""


def run_module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours. -P: no file in the current folder hides it."""
    return [sys.executable, "-P", "-m", name, *arguments]


def installed() -> bool:
    """Whether Python finds our packages in every process."""
    return HOME in site.getsitepackages()


def with_code_path(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables, with our packages in the path where they are not installed."""
    if installed():
        return dict(environment)
    return {**environment, "PYTHONPATH": os.pathsep.join([HOME, *filter(None, [environment.get("PYTHONPATH")])])}
