"""docs/kubernetes.md: its commands run, in its order, on an API server."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import pytest

from infra.kubernetes import programs
from infra.kubernetes.plane import Plane
from tests.infra.chart import ROOT
from tests.infra.test_kubernetes_page import COMMANDS, PAGE

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(600)]

MODULE = [sys.executable, "-m", "infra.kubernetes"]


def test_the_pages_commands_run(api_server: Plane, space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert len(COMMANDS) > 4
    for line in COMMANDS:
        tool, *arguments = shlex.split(line)
        api_server.run(tool, *arguments, "--namespace", space)


def test_fetch_says_where_everything_is() -> None:
    assert "`python -m infra.kubernetes fetch`" in PAGE
    done = subprocess.run([*MODULE, "fetch"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)

    for program in programs.BUILDS:
        assert re.search(rf"^({program} is /|LEFT OUT: {program} )", done.stdout, re.MULTILINE), done.stdout


def test_a_control_plane_runs_until_it_is_told_to_end(api_server: Plane) -> None:
    assert "`up --stack api`" in PAGE.replace("\n", " ")
    with subprocess.Popen([*MODULE, "up", "--stack", "api"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        exported = running.stdout.readline()
        command = running.stdout.readline().split()
        environment = os.environ | {"KUBECONFIG": exported.removeprefix("export KUBECONFIG=").strip()}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        running.terminate()
        assert running.wait(60) == 0

    assert (done.returncode, done.stdout) == (0, "")
    assert "No resources found" in done.stderr
