"""docs/kubernetes.md: its commands run, in its order, on an API server."""

from __future__ import annotations

import shlex

import pytest

from infra.kubernetes.plane import Plane
from tests.infra.chart import ROOT
from tests.infra.test_kubernetes_page import COMMANDS

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(300)]


def test_the_pages_commands_run(api_server: Plane, space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert len(COMMANDS) > 4
    for line in COMMANDS:
        tool, *arguments = shlex.split(line)
        api_server.run(tool, *arguments, "--namespace", space)
