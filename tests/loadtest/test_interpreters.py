from __future__ import annotations

import os
import subprocess
import sys

import pytest

from loadtest import interpreters
from protocol.errors import InvalidArgument


def test_this_interpreter_is_known_by_its_version() -> None:
    (found,) = interpreters.find([sys.executable])
    assert found.version == ".".join(map(str, sys.version_info[:3]))
    assert found.spin_ns > 0


@pytest.mark.parametrize("path", interpreters.here())
def test_each_interpreter_imports_our_packages(path: str) -> None:
    (found,) = interpreters.find([path])
    environment = {**os.environ, **found.environment}
    line = [found.path, "-c", "import penstock.entry, numpy, onnxruntime, click"]
    assert subprocess.run(line, env=environment, check=False, cwd="/").returncode == 0


def test_two_of_one_version_are_told_apart_by_their_paths() -> None:
    first, second = interpreters.find([sys.executable, sys.executable])
    assert second.version == f"{first.version} ({sys.executable})"


@pytest.mark.parametrize("path", ["/no/such/python", "/bin/true"])
def test_what_is_no_interpreter_is_named(path: str) -> None:
    with pytest.raises(InvalidArgument, match=path):
        interpreters.find([path])
